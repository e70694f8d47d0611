"""RAID of a pretended machine. As in Ironic, its methods are no steps: it takes a wanted RAID, and nobody makes it."""

from __future__ import annotations

from metald.drivers.base import Done, Outcome, StepContext
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Raid


class FakeRaid(Raid):
    """Takes its time."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def create_configuration(
        self,
        ctx: StepContext,
        *,
        create_root_volume: bool = True,  # noqa: ARG002
        create_nonroot_volumes: bool = True,  # noqa: ARG002
    ) -> Outcome:
        """Pretend to make logical disks."""
        await self._hardware.call(ctx.node, "raid")
        return Done()

    async def delete_configuration(self, ctx: StepContext) -> Outcome:
        """Pretend to remove them."""
        await self._hardware.call(ctx.node, "raid")
        return Done()
