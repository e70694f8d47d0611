"""The `fake` implementations: each takes the time its setting says and then reports success."""

from __future__ import annotations

from collections.abc import Sequence

from metald.drivers.base import (
    Boot,
    Deploy,
    Done,
    Inspect,
    Interface,
    Management,
    NodeContext,
    Outcome,
    Phase,
    Power,
    Rescue,
    StepContext,
    step,
)
from metald.drivers.fake.hardware import FakeHardware
from metald.errors import Invalid
from metald.model import BootDevice, PowerState, PowerTarget


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


class FakeManagement(Management):
    """Boot device of a pretended machine: it knows only the network."""

    name = "fake"

    def __init__(self, hardware: FakeHardware) -> None:
        self._hardware = hardware

    def supported_boot_devices(self, ctx: NodeContext) -> Sequence[BootDevice]:  # noqa: ARG002
        """Only `pxe`, as Ironic's fake management has it."""
        return (BootDevice.PXE,)

    async def get_boot_device(self, ctx: NodeContext) -> tuple[BootDevice | None, bool | None]:
        """See Management."""
        await self._hardware.call(ctx.node, "management")
        return self._hardware.boot_device(ctx.node)

    async def set_boot_device(self, ctx: NodeContext, device: BootDevice, *, persistent: bool = False) -> None:
        """See Management."""
        if device is not BootDevice.PXE:
            raise Invalid(
                f"Invalid boot device {device.value} specified.",
                remedy="The fake management interface supports: pxe.",
                field="boot_device",
            )
        await self._hardware.call(ctx.node, "management")
        self._hardware.set_boot_device(ctx.node, device, persistent)


class FakeBoot(Boot):
    """Network boot of a pretended machine."""

    name = "fake"

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


def interfaces(hardware: FakeHardware) -> list[Interface]:
    """One object of each implementation."""
    return [
        FakePower(hardware),
        FakeManagement(hardware),
        FakeBoot(hardware),
        FakeDeploy(hardware),
        FakeInspect(hardware),
        FakeRescue(hardware),
    ]
