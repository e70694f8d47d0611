"""Firmware of a pretended machine: every update succeeds and changes nothing."""

from __future__ import annotations

from metald.drivers.base import Done, Outcome, Phase, StepContext, step
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Firmware, JsonList


class FakeFirmware(Firmware):
    """Takes its time."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    @step(
        Phase.CLEAN,
        0,
        requires_ramdisk=True,
        argsinfo={
            "settings": {
                "description": "List of Firmware components, each item needs to contain a dictionary with name/value pairs",
                "required": True,
            }
        },
    )
    async def update(self, ctx: StepContext, settings: JsonList) -> Outcome:  # noqa: ARG002
        """Pretend to flash."""
        await self._hardware.call(ctx.node, "firmware")
        return Done()
