"""Vendor methods and steps of a pretended machine, those by which Ironic's clients and test suites try passthru."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from metald.drivers.base import Done, NodeContext, Outcome, Phase, StepContext, Wait, step
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.optional import Vendor, passthru
from metald.model import now

CALL_TIMEOUT = 1800.0
"""Seconds that `trigger_servicewait` waits for a heartbeat."""

_WAITED_SINCE = "servicewait_since"


class FakeVendor(Vendor):
    """Each method takes its time and then compares words."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    def properties(self) -> Mapping[str, str]:
        """See Interface."""
        return {"B1": "Anything: fake hardware does not read it.", "B2": "Anything: fake hardware does not read it."}

    @passthru("POST", description="Test if the value of bar is baz", required=("bar",))
    async def first_method(self, ctx: NodeContext, bar: Any) -> bool:
        """Asynchronous."""
        await self._hardware.call(ctx.node, "vendor")
        return bool(bar == "baz")

    @passthru("POST", description="Test if the value of bar is kazoo", required=("bar",))
    async def second_method(self, ctx: NodeContext, bar: Any) -> bool:
        """Asynchronous."""
        await self._hardware.call(ctx.node, "vendor")
        return bool(bar == "kazoo")

    @passthru("POST", asynchronous=False, description="Test if the value of bar is meow", required=("bar",))
    async def third_method_sync(self, ctx: NodeContext, bar: Any) -> bool:
        """Synchronous."""
        await self._hardware.call(ctx.node, "vendor")
        return bool(bar == "meow")

    @passthru("POST", exclusive=False, description="Test if the value of bar is woof", required=("bar",))
    async def fourth_method_shared_lock(self, ctx: NodeContext, bar: Any) -> bool:
        """Runs beside whatever else drives the node."""
        await self._hardware.call(ctx.node, "vendor")
        return bool(bar == "woof")

    @step(Phase.SERVICE, 0)
    @step(Phase.CLEAN, 1, requires_ramdisk=True)
    @passthru("POST", description="Test pass-through to wait.", optional=None)
    async def log_passthrough(self, ctx: NodeContext, **_args: Any) -> Outcome:
        """Do nothing, as a vendor method or as a step."""
        await self._hardware.call(ctx.node, "vendor")
        return Done()

    @step(Phase.SERVICE, 0, requires_ramdisk=True)
    async def trigger_servicewait(self, ctx: StepContext) -> Outcome:
        """Wait for a heartbeat that comes later than this step began."""
        since = ctx.memo.setdefault(_WAITED_SINCE, now().isoformat())
        last = ctx.node.driver_internal_info.get("agent_last_heartbeat")
        if last is not None and datetime.fromisoformat(last) > datetime.fromisoformat(since):
            del ctx.memo[_WAITED_SINCE]
            return Done()
        return Wait("heartbeat", CALL_TIMEOUT, "a heartbeat", callback=True)
