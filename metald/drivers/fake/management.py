"""Management of a pretended machine: it boots from the network only, and has two lights that are on."""

from __future__ import annotations

from collections.abc import Sequence

from metald.drivers.base import Management, NodeContext
from metald.drivers.board import Indicator
from metald.drivers.fake.hardware import FakeHardware
from metald.errors import Invalid
from metald.model import BootDevice

INDICATORS = (
    Indicator("chassis", "led-0"),
    Indicator("system", "led", readonly=False, states=("blinking", "off", "on")),
)


class FakeManagement(Management):
    """What Ironic's fake management knows, and nothing beyond: no light can be changed, nor boot mode or virtual media."""

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

    async def indicators(self, ctx: NodeContext) -> Sequence[Indicator]:
        """See Board."""
        await self._hardware.call(ctx.node, "management")
        return INDICATORS

    async def get_indicator_state(self, ctx: NodeContext, component: str, name: str) -> str:
        """See Board."""
        await self._hardware.call(ctx.node, "management")
        known = ", ".join(light.label for light in INDICATORS)
        if component not in {light.component for light in INDICATORS}:
            raise Invalid(f"Invalid component {component[:80]} specified.", remedy=f"There are: {known}.", field="indicator")
        if (component, name) not in {(light.component, light.name) for light in INDICATORS}:
            raise Invalid(f"Invalid indicator {name[:80]} specified.", remedy=f"There are: {known}.", field="indicator")
        return "on"
