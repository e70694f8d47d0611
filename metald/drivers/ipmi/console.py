"""Consoles over IPMI: the machine's serial port by Serial over LAN, kept open as long as the console is enabled.

`pyghmi` is reached by the API's WebSocket and by SSH. `ipmitool-socat` is the same console under Ironic's name, with a TCP
port of its own beside these: `ipmi_terminal_port`, or one from `console.port_range`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from metald.console.consoles import Consoles
from metald.console.line import Line
from metald.drivers.base import NodeContext
from metald.drivers.ipmi import info
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import PROPERTIES, BmcInfo
from metald.drivers.ipmi.sol import open_sol
from metald.drivers.optional import Console
from metald.errors import Invalid

_PORT = "ipmi_terminal_port"
_ALLOCATED = "allocated_ipmi_terminal_port"


class PyghmiConsole(Console):
    """Serial over LAN on the hub."""

    name: ClassVar[str] = "pyghmi"

    def __init__(self, hub: IpmiHub, consoles: Consoles) -> None:
        self._hub, self._consoles = hub, consoles

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return PROPERTIES

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        self._info(ctx)

    async def start(self, ctx: NodeContext) -> None:
        """See `Console.start`. Does not wait for the BMC: the line is tried until it stands."""
        self._info(ctx)

        async def dial() -> Line:
            return await open_sol(self._hub, self._info(ctx), self._consoles.settings.keepalive)

        self._consoles.open(ctx.node.uuid, ctx.node.label, dial)

    async def stop(self, ctx: NodeContext) -> None:
        """See `Console.stop`."""
        await self._consoles.close(ctx.node.uuid)

    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:
        """See `Console.info`."""
        return {"type": "websocket", "url": self._consoles.socket_path(ctx.node.uuid)}

    def _info(self, ctx: NodeContext) -> BmcInfo:
        parsed = info.parse(ctx.node)
        info.require_plain(parsed, ctx.node)
        return parsed


class SocatConsole(PyghmiConsole):
    """The same with a TCP port for each node."""

    name: ClassVar[str] = "ipmitool-socat"

    def properties(self) -> Mapping[str, str]:
        """See `Interface.properties`."""
        return {**PROPERTIES, _PORT: "TCP port of the node's console. By default one from console.port_range."}

    async def validate(self, ctx: NodeContext) -> None:
        """See `Interface.validate`."""
        await super().validate(ctx)
        if self._port(ctx) is None and not self._consoles.settings.port_range:
            raise Invalid(
                f"Node {ctx.node.label}: driver_info {_PORT} is missing.",
                remedy="Set it to a TCP port, set console.port_range, or use the console interface pyghmi.",
                field="driver_info",
            )

    async def start(self, ctx: NodeContext) -> None:
        """See `Console.start`."""
        given, uuid = self._port(ctx), ctx.node.uuid
        await super().start(ctx)
        before = ctx.node.driver_internal_info.get(_ALLOCATED)
        try:
            await self._consoles.listen(uuid, given, prefer=before)
        except BaseException:
            await self._consoles.close(uuid)
            raise
        keep = getattr(ctx, "set", None)
        port = self._consoles.tcp_port(uuid)
        if keep is not None and given is None and port != before:
            keep(driver_internal_info={**ctx.node.driver_internal_info, _ALLOCATED: port})

    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:
        """See `Console.info`."""
        return {"type": "socat", "url": self._consoles.tcp_url(ctx.node.uuid)}

    def _port(self, ctx: NodeContext) -> int | None:
        value = ctx.node.driver_info.get(_PORT)
        if value in (None, ""):
            return None
        text = str(value)
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
            raise Invalid(
                f"Node {ctx.node.label}: driver_info {_PORT} is no TCP port.",
                remedy="Set it to a number from 1 to 65535.",
                field="driver_info",
            )
        return int(text)
