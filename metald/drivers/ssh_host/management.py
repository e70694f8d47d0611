"""Boot device and NMI of virtual machines: the interface `ssh`. What a platform can and cannot is said in its module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from metald.drivers.base import Management, NodeContext
from metald.drivers.ssh_host.hosts import Hosts
from metald.drivers.ssh_host.info import PROPERTIES, parse
from metald.drivers.ssh_host.platforms import Action
from metald.drivers.ssh_host.power import validate
from metald.errors import Invalid
from metald.model import BootDevice


class SshManagement(Management):
    """Management by commands on the host."""

    name: ClassVar[str] = "ssh"

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        validate(ctx)

    def supported_boot_devices(self, ctx: NodeContext) -> Sequence[BootDevice]:
        """See `Management.supported_boot_devices`."""
        return tuple(self._hosts.platform(parse(ctx.node)).devices)

    async def get_boot_device(self, ctx: NodeContext) -> tuple[BootDevice | None, bool | None]:
        """See `Management.get_boot_device`."""
        place = await self._hosts.place(ctx)
        return await self._hosts.platform(place.info).boot_device(place)

    async def set_boot_device(self, ctx: NodeContext, device: BootDevice, *, persistent: bool = False) -> None:
        """See `Management.set_boot_device`.

        Raises:
            Invalid: the platform has no such device.
        """
        known = self.supported_boot_devices(ctx)
        if device not in known:
            raise Invalid(
                f"Node {ctx.node.label}: virtual machines cannot boot from '{device}'.", remedy=f"Choose one of {', '.join(known)}."
            )
        place = await self._hosts.place(ctx)
        await self._hosts.platform(place.info).set_boot_device(place, device, persistent=persistent)

    async def inject_nmi(self, ctx: NodeContext) -> None:
        """See `Management.inject_nmi`."""
        place = await self._hosts.place(ctx)
        await self._hosts.platform(place.info).act(place, Action.NMI)
