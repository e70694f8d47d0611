"""Consoles of virtual machines: the interface `ssh`.

The line is the machine's serial port, reached through the SSH connection to its host: a TCP port of the host's own
(`ssh_terminal_port`), a Unix socket (`ssh_terminal_socket`), or for libvirt without either `virsh console` on a terminal.
No platform passes a serial break on these ways: it is not sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from metald.console.consoles import Consoles
from metald.console.line import Line, LineEnded
from metald.drivers.base import NodeContext
from metald.drivers.optional import Console
from metald.drivers.ssh_host.hosts import Hosts
from metald.drivers.ssh_host.info import PROPERTIES, VIRSH, MachineInfo, parse
from metald.drivers.ssh_host.platforms import Place
from metald.drivers.ssh_host.power import validate
from metald.drivers.ssh_library import gone
from metald.errors import HostRefused, Invalid

if TYPE_CHECKING:
    import asyncssh

_CHUNK: Final = 16 << 10
_ESCAPE: Final = b"\x1d"
"""Ctrl-], which would end `virsh console` for everybody."""


class _SerialLine:
    """A serial port by way of an SSH channel."""

    def __init__(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes], resources: contextlib.AsyncExitStack) -> None:
        self._reader, self._writer, self._resources = reader, writer, resources

    async def read(self) -> bytes:
        """See Line."""
        try:
            data = await self._reader.read(_CHUNK)
        except gone() as error:
            raise LineEnded(str(error) or type(error).__name__) from None
        if not data:
            raise LineEnded("the machine was switched off, or its host closed the line")
        return data

    async def write(self, data: bytes) -> None:
        """See Line."""
        with contextlib.suppress(*gone()):
            self._writer.write(data)
            await self._writer.drain()

    def send_break(self) -> None:
        """See Line. There is no way to send one."""

    async def close(self) -> None:
        """See Line."""
        await self._resources.aclose()


class _ProgramLine(_SerialLine):
    """The same by way of a program that takes Ctrl-] for itself."""

    async def write(self, data: bytes) -> None:
        """See Line."""
        await super().write(data.replace(_ESCAPE, b""))


class SshConsole(Console):
    """The serial port, through the host."""

    name: ClassVar[str] = "ssh"

    def __init__(self, hosts: Hosts, consoles: Consoles) -> None:
        self._hosts, self._consoles = hosts, consoles

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        validate(ctx)
        self._info(ctx)

    def _info(self, ctx: NodeContext) -> MachineInfo:
        info = parse(ctx.node)
        if info.virt_type != VIRSH and info.terminal_port is None and info.terminal_socket is None:
            raise Invalid(
                f"Node {ctx.node.label}: driver_info ssh_terminal_port and ssh_terminal_socket are missing.",
                remedy="Have the machine's serial port listen at one of the two on the host, and set it.",
                field="driver_info",
            )
        return info

    async def start(self, ctx: NodeContext) -> None:
        """See `Console.start`. Does not wait for the host: the line is tried until it stands."""
        self._info(ctx)

        async def dial() -> Line:
            return await self._dial(ctx)

        self._consoles.open(ctx.node.uuid, ctx.node.label, dial)

    async def _dial(self, ctx: NodeContext) -> Line:
        info = self._info(ctx)
        host = self._hosts.host(info.host)
        async with contextlib.AsyncExitStack() as stack:
            if info.terminal_port is not None:
                reader, writer = await stack.enter_async_context(host.channel(info.terminal_port))
                return _SerialLine(reader, writer, stack.pop_all())
            if info.terminal_socket is not None:
                reader, writer = await stack.enter_async_context(host.channel(info.terminal_socket))
                return _SerialLine(reader, writer, stack.pop_all())
            place = await self._hosts.place(ctx)
            argv = await self._command(ctx, place)
            process = await stack.enter_async_context(host.terminal(argv))
            return _ProgramLine(process.stdout, process.stdin, stack.pop_all())

    async def _command(self, ctx: NodeContext, place: Place) -> list[str]:
        argv = await self._hosts.platform(place.info).console(place)
        if argv is None or not await self._hosts.is_on(ctx):
            raise HostRefused(f"{place.label[:1].upper()}{place.label[1:]} is off.")
        return list(argv)

    async def stop(self, ctx: NodeContext) -> None:
        """See `Console.stop`."""
        await self._consoles.close(ctx.node.uuid)

    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:
        """See `Console.info`."""
        return {"type": "websocket", "url": self._consoles.socket_path(ctx.node.uuid)}
