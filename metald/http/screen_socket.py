"""A machine's screen over a WebSocket: RFB as it is, in binary messages both ways, as noVNC and its proxies speak it.

The token in the address is the whole of the permission, so that a browser can open it; it is checked before the protocol
changes.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSMsgType, web

from metald.console.consoles import Consoles
from metald.errors import MetaldError
from metald.http import problem

_HEARTBEAT = 30.0
_MOST = 64 << 10
_GOING_AWAY = 1001
_CONNECT_TIMEOUT = 10.0


class ScreenSockets:
    """All open WebSockets of screens.

    Args:
        consoles: know where the screens are, and check tokens.
    """

    def __init__(self, consoles: Consoles) -> None:
        self._consoles = consoles
        self._open: set[web.WebSocketResponse] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one browser."""
        node = request.match_info["node"]
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_MOST, protocols=("binary",))
        try:
            self._consoles.check(node, request.query.get("token", ""))
            host, port = self._consoles.screens.address(node)
        except MetaldError as error:
            return web.Response(status=error.status, body=problem.encode(error), content_type="application/json")
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"}, text="Open it with a WebSocket.")
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return web.Response(status=502, text="The screen does not answer.")
        self._open.add(socket)
        try:
            await socket.prepare(request)
            await _relay(socket, reader, writer)
        finally:
            writer.close()
            self._open.discard(socket)
        return socket

    async def shutdown(self, _application: web.Application) -> None:
        """Send everybody away: the daemon stops."""
        for socket in list(self._open):
            await socket.close(code=_GOING_AWAY, message=b"metald stops")


async def _relay(socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def shows() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_MOST):
                await socket.send_bytes(data)
        await socket.close()

    showing = asyncio.create_task(shows())
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                writer.write(message.data)
                await writer.drain()
    except ConnectionError:
        pass  # the screen was closed
    finally:
        showing.cancel()
        await asyncio.wait([showing])
