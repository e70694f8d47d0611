"""The `fake` implementations: each takes the time its setting says and then reports success."""

from __future__ import annotations

from metald.drivers.base import (
    Boot,
    Deploy,
    Done,
    Inspect,
    Interface,
    NodeContext,
    Outcome,
    Phase,
    Power,
    Rescue,
    StepContext,
    step,
)
from metald.drivers.fake.bios import FakeBios
from metald.drivers.fake.console import FakeConsole
from metald.drivers.fake.firmware import FakeFirmware
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.fake.management import FakeManagement
from metald.drivers.fake.raid import FakeRaid
from metald.drivers.fake.vendor import FakeVendor
from metald.model import PowerState, PowerTarget


class FakePower(Power):
    """Power of a pretended machine."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def get_power_state(self, ctx: NodeContext) -> PowerState:
        """See Power."""
        await self._hardware.call(ctx.node, "power")
        return self._hardware.power(ctx.node)

    async def set_power_state(self, ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:  # noqa: ARG002
        """See Power."""
        await self._hardware.call(ctx.node, "power")
        off = target in (PowerTarget.OFF, PowerTarget.SOFT_OFF)
        self._hardware.set_power(ctx.node, PowerState.OFF if off else PowerState.ON)


class FakeBoot(Boot):
    """Network boot of a pretended machine."""

    name = "fake"
    boots_instances = True

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def prepare_ramdisk(self, ctx: StepContext, purpose: str) -> None:  # noqa: ARG002
        """See Boot."""
        await self._hardware.call(ctx.node, "boot")

    async def clean_up_ramdisk(self, ctx: StepContext) -> None:
        """See Boot."""
        await self._hardware.call(ctx.node, "boot")

    async def prepare_instance(self, ctx: StepContext) -> None:
        """See Boot."""
        await self._hardware.call(ctx.node, "boot")

    async def clean_up_instance(self, ctx: StepContext) -> None:
        """See Boot."""
        await self._hardware.call(ctx.node, "boot")


class FakeDeploy(Deploy):
    """Deployment of a pretended machine, without a ramdisk."""

    name = "fake"
    uses_ramdisk = False

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    @step(Phase.DEPLOY, 100)
    async def deploy(self, ctx: StepContext) -> Outcome:
        """Pretend to deploy."""
        await self._hardware.call(ctx.node, "deploy")
        return Done()

    async def ramdisk_ready(self, ctx: StepContext) -> bool:  # noqa: ARG002
        """There is no ramdisk to wait for."""
        return True


class FakeInspect(Inspect):
    """Inspection of a pretended machine: finds what the node says already."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def inspect_hardware(self, ctx: StepContext) -> Outcome:
        """See Inspect."""
        await self._hardware.call(ctx.node, "inspect")
        return Done()


class FakeRescue(Rescue):
    """Rescue of a pretended machine."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    async def rescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        await self._hardware.call(ctx.node, "rescue")
        return Done()

    async def unrescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        await self._hardware.call(ctx.node, "rescue")
        return Done()


class FakeStorage(Interface):
    """Storage of a pretended machine: nothing needs to be attached."""

    kind = "storage"
    name = "fake"


def interfaces(hardware: FakeHardware) -> list[Interface]:
    """One object of each implementation."""
    return [
        FakePower(hardware),
        FakeManagement(hardware),
        FakeBoot(hardware),
        FakeDeploy(hardware),
        FakeInspect(hardware),
        FakeRescue(hardware),
        FakeBios(hardware),
        FakeConsole(hardware),
        FakeFirmware(hardware),
        FakeRaid(hardware),
        FakeStorage(),
        FakeVendor(hardware),
    ]
