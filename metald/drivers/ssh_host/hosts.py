"""All hypervisor hosts of the daemon: their connections, and what is asked of each on behalf of all its machines.

Rules:

- One query tells the power of every machine of a host. Whoever asks while one runs waits for the next, which all of them
  share; power sync, which is background work, takes an answer that is not old.
- A machine that is given by the addresses of its ports must be the only one of the host with one of them.
- Connections that nobody used for a while are closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from metald.config import SshHost
from metald.drivers.base import NodeContext
from metald.drivers.ssh_host.connection import Host
from metald.drivers.ssh_host.info import HostInfo, MachineInfo, parse
from metald.drivers.ssh_host.libvirt import LibvirtPlatform
from metald.drivers.ssh_host.parallels import ParallelsPlatform
from metald.drivers.ssh_host.platforms import CommandPlatform, Machine, Place, Platform
from metald.drivers.ssh_host.qemu import QemuPlatform
from metald.drivers.ssh_host.virtualbox import VirtualBoxPlatform
from metald.errors import HostRefused, Invalid
from metald.limits import Gate

_ADDRESSES_AGE: Final = 60.0
"""Seconds after which the addresses of a host's machines are read again."""

_background: Final[ContextVar[bool]] = ContextVar("ssh_host_background", default=False)


@contextmanager
def background() -> Iterator[None]:
    """Mark the work of this task as background: it takes answers that are not old."""
    token = _background.set(True)
    try:
        yield
    finally:
        _background.reset(token)


class Listing:
    """What a host says of all its machines, asked once for all who want to know.

    Args:
        host: the host.
        platform: how it is asked.
        info: of any machine there with the same connection.
    """

    def __init__(self, host: Host, platform: CommandPlatform, info: MachineInfo) -> None:
        self._host, self._platform, self._info = host, platform, info
        self._machines: list[Machine] = []
        self._asked = float("-inf")
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._addresses: dict[str, set[str]] = {}
        self._addresses_of: tuple[float, frozenset[str]] = (float("-inf"), frozenset())
        self._reading = asyncio.Lock()
        self.queries = 0
        """How often the host was asked."""

    async def machines(self, age: float = 0.0) -> Sequence[Machine]:
        """The machines as they were at most `age` seconds ago.

        Raises:
            DriverError: the host cannot be asked.
        """
        if time.monotonic() - self._asked > age or not age:
            if self._next is None:
                self._next = asyncio.create_task(self._ask_after(self._running), name=f"machines of {self._host.info.label}")
                self._next.add_done_callback(_told)
            # shared: one who is cancelled must not take the answer from the others
            await asyncio.shield(self._next)
        return self._machines

    async def _ask_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        begun = time.monotonic()
        self.queries += 1
        self._machines = await self._platform.machines(self._host, self._info)
        self._asked = begun

    async def find(self, info: MachineInfo, addresses: Sequence[str], age: float = 0.0) -> Machine:
        """The machine of a node.

        Raises:
            HostRefused: there is none, or more than one.
        """
        machines = await self.machines(age)
        if info.name is not None:
            what = f"named {info.name}"
            found = [one for one in machines if info.name == one.key] or [one for one in machines if info.name == one.name]
        else:
            what = f"with a card {' or '.join(addresses)}"
            keys = await self._with(machines, addresses)
            found = [one for one in machines if one.key in keys]
        if len(found) == 1:
            return found[0]
        problem = "two or more machines" if found else "no machine"
        remedy = "Set ssh_machine in driver_info to the machine's UUID." if found else "Correct ssh_machine, or the addresses of its ports."
        if not found and not machines:
            remedy = "The host shows no machine at all: check ssh_libvirt_uri, and that the user may see them."
        raise HostRefused(f"Node {info.node}: {self._host.info.label} has {problem} {what}.", remedy=remedy)

    async def _with(self, machines: Sequence[Machine], addresses: Sequence[str]) -> set[str]:
        keys = frozenset(machine.key for machine in machines)
        async with self._reading:
            read, of = self._addresses_of
            if keys != of or time.monotonic() - read > _ADDRESSES_AGE:
                found: dict[str, set[str]] = {}
                for address, key in await self._platform.addresses(self._host, self._info, sorted(keys)):
                    found.setdefault(address, set()).add(key)
                self._addresses, self._addresses_of = found, (time.monotonic(), keys)
        return {key for address in addresses for key in self._addresses.get(address.lower(), ())}

    async def close(self) -> None:
        """Ask no more."""
        for task in (self._running, self._next):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])


def _told(task: asyncio.Task[None]) -> None:
    """Whoever waited was told how it ended; nobody may be left."""
    if not task.cancelled():
        task.exception()


class Hosts:
    """Every host.

    Args:
        settings: the section `drivers.ssh_host`.
    """

    def __init__(self, settings: SshHost) -> None:
        self.settings = settings
        self.handshakes = Gate(settings.handshakes, "a login to a hypervisor host", "drivers.ssh_host.handshakes")
        self._hosts: dict[HostInfo, Host] = {}
        self._listings: dict[tuple[HostInfo, str, str | None], Listing] = {}
        self._qemu = QemuPlatform()
        commands: tuple[CommandPlatform, ...] = (LibvirtPlatform(settings.libvirt_uri), VirtualBoxPlatform(), ParallelsPlatform())
        self._commands: Mapping[str, CommandPlatform] = {platform.name: platform for platform in commands}

    def platform(self, info: MachineInfo) -> Platform:
        """What drives this machine."""
        return self._commands.get(info.virt_type, self._qemu)

    def host(self, info: HostInfo) -> Host:
        """The host, to talk to."""
        found = self._hosts.get(info)
        if found is None:
            found = self._hosts[info] = Host(info, self.settings, self.handshakes)
        found.used = time.monotonic()
        return found

    async def place(self, ctx: NodeContext) -> Place:
        """A node's machine.

        Raises:
            Invalid: driver_info is wrong, or says nothing by which the machine is found.
            DriverError: the host cannot be asked, or has no such machine.
        """
        info = parse(ctx.node)
        host, listing = self.host(info.host), self._listing(info)
        if listing is None:
            return Place(host, info)
        ports = addresses(ctx, info)
        try:
            machine = await listing.find(info, ports, self.settings.listing_age)
        except HostRefused:  # it may be newer than the list
            machine = await listing.find(info, ports)
        return Place(host, info, machine.key)

    async def is_on(self, ctx: NodeContext) -> bool:
        """Whether a node's machine has power.

        Raises:
            Invalid: see `place`.
            DriverError: see `place`.
        """
        info = parse(ctx.node)
        host, listing = self.host(info.host), self._listing(info)
        if listing is None:
            return await self._qemu.is_on(host, Place(host, info))
        age = self.settings.listing_age if _background.get() else 0.0
        return (await listing.find(info, addresses(ctx, info), age)).on

    def _listing(self, info: MachineInfo) -> Listing | None:
        platform = self._commands.get(info.virt_type)
        if platform is None:
            return None
        key = (info.host, info.virt_type, info.uri)
        found = self._listings.get(key)
        if found is None:
            found = self._listings[key] = Listing(self.host(info.host), platform, info)
        return found

    def queries(self) -> int:
        """How often hosts were asked for their machines."""
        return sum(listing.queries for listing in self._listings.values())

    async def run(self) -> None:
        """Close connections that nobody uses, for ever."""
        while True:
            await asyncio.sleep(max(1.0, self.settings.idle / 4))
            limit = time.monotonic() - self.settings.idle
            for info in [info for info, host in self._hosts.items() if host.idle and host.used < limit]:
                await self._forget(info)

    async def _forget(self, info: HostInfo) -> None:
        host = self._hosts.pop(info)
        for key in [key for key in self._listings if key[0] == info]:
            await self._listings.pop(key).close()
        await host.close()

    async def close(self) -> None:
        """Close every connection."""
        for info in list(self._hosts):
            await self._forget(info)


def addresses(ctx: NodeContext, info: MachineInfo) -> list[str]:
    """The addresses of the node's ports, by which its machine is found when it is not named.

    Raises:
        Invalid: it is not named, and has no ports.
    """
    found = [port.address.lower() for port in ctx.ports if port.address]
    if info.name is None and not found:
        raise Invalid(
            f"Node {info.node}: driver_info ssh_machine is missing, and the node has no ports to find its machine by.",
            remedy="Set ssh_machine to the machine's name on the host, or add a port with its address.",
            field="driver_info",
        )
    return found
