"""Boot device, NMI, sensors, parts and event log over IPMI: the interface `pyghmi`, and the base of the interface `ipmitool`.

Rules:

- The boot flags say the firmware mode too: BIOS or UEFI as `drivers/boot_mode.py` derives it from the node.
- The BMC's 60-second limit on boot flags is switched off, unless the node says otherwise.
- With `ipmi_force_boot_device` nothing persistent is asked of the BMC; `boot_override.py` chooses before each boot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from metald.config import Ipmi
from metald.drivers.base import Management, NodeContext, Sensor
from metald.drivers.boot_mode import requested_boot_mode
from metald.drivers.ipmi import boot_override, info, readings
from metald.drivers.ipmi.client import SELECTORS, Bmc, Transport
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import PROPERTIES, BmcInfo
from metald.drivers.ipmi.pyghmi_command import PyghmiCommands
from metald.errors import Invalid
from metald.model import BootDevice

if TYPE_CHECKING:
    from pyghmi.ipmi.command import Command

T = TypeVar("T")


class IpmiManagement(Management):
    """Management by chassis commands over some transport."""

    def __init__(self, transport: Transport, settings: Ipmi) -> None:
        self._transport = transport
        self._settings = settings
        self._commands = PyghmiCommands(transport)

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        self._info(ctx)

    def supported_boot_devices(self, ctx: NodeContext) -> Sequence[BootDevice]:  # noqa: ARG002
        """See `Management.supported_boot_devices`."""
        return tuple(SELECTORS)

    async def get_boot_device(self, ctx: NodeContext) -> tuple[BootDevice | None, bool | None]:
        """See `Management.get_boot_device`."""
        flags = await Bmc(self._transport, self._info(ctx)).boot_flags()
        if not flags.valid or flags.device is None:
            return None, None
        return flags.device, flags.persistent

    async def set_boot_device(self, ctx: NodeContext, device: BootDevice, *, persistent: bool = False) -> None:
        """See `Management.set_boot_device`.

        Raises:
            Invalid: IPMI has no such device.
        """
        if device not in SELECTORS:
            known = ", ".join(SELECTORS)
            raise Invalid(f"Node {ctx.node.label}: IPMI cannot boot from '{device}'.", remedy=f"Choose one of {known}.")
        bmc = Bmc(self._transport, self._info(ctx))
        vendor = str(ctx.node.properties.get("vendor") or "")
        forced = bmc.info.force_boot_device
        await bmc.set_boot_device(device, requested_boot_mode(ctx.node), persistent=persistent and not forced, vendor=vendor)
        if forced:
            boot_override.remember(ctx, device, persistent=persistent)

    async def inject_nmi(self, ctx: NodeContext) -> None:
        """See `Management.inject_nmi`."""
        await Bmc(self._transport, self._info(ctx)).inject_nmi()

    async def sensors(self, ctx: NodeContext) -> Sequence[Sensor]:
        """See `Management.sensors`."""
        return await self._read(ctx, readings.sensors)

    async def parts(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """See `Management.parts`: the inventory of its FRU devices."""
        return await self._read(ctx, readings.parts)

    async def network(self, ctx: NodeContext) -> Mapping[str, Any]:
        """See `Management.network`: the LAN parameters of the channel that we came by."""
        return await self._read(ctx, readings.network)

    async def event_log(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """See `Management.event_log`: the system event log."""
        return await self._read(ctx, readings.event_log)

    async def _read(self, ctx: NodeContext, reading: Callable[[Command], T]) -> T:
        bmc = self._info(ctx)
        async with self._holding(bmc):
            return await self._commands.call(bmc, reading)

    def _holding(self, bmc: BmcInfo) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - a program per command has no session
        return nullcontext()

    def _info(self, ctx: NodeContext) -> BmcInfo:
        return info.parse(ctx.node)


class PyghmiManagement(IpmiManagement):
    """Native asyncio IPMI on the hub, with pyghmi's protocol code."""

    name: ClassVar[str] = "pyghmi"

    def __init__(self, hub: IpmiHub, settings: Ipmi) -> None:
        super().__init__(hub, settings)
        self._hub = hub

    def exchange(self, ctx: NodeContext) -> Sequence[Mapping[str, Any]]:
        """See `Management.exchange`."""
        return self._hub.exchange(self._info(ctx))

    def _holding(self, bmc: BmcInfo) -> AbstractAsyncContextManager[None]:
        return self._hub.holding(bmc)

    def _info(self, ctx: NodeContext) -> BmcInfo:
        parsed = super()._info(ctx)
        info.require_plain(parsed, ctx.node)
        return parsed
