"""The console over a WebSocket: what `console_info` leads to. Binary messages both ways, the bytes as they are.

A text message is typed too, for clients that know nothing else. The token in the address is the whole of the permission, so
that a browser can open it; it is checked before the protocol changes.
"""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from metald.console.consoles import Consoles
from metald.console.stream import ConsoleStream, Reader
from metald.errors import MetaldError
from metald.http import problem

_HEARTBEAT = 30.0
_MOST = 64 << 10
_GOING_AWAY = 1001


class ConsoleSockets:
    """All open WebSockets.

    Args:
        consoles: what they lead to.
    """

    def __init__(self, consoles: Consoles) -> None:
        self._consoles = consoles
        self._open: set[web.WebSocketResponse] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one browser."""
        node = request.match_info["node"]
        try:
            self._consoles.check(node, request.query.get("token", ""))
            stream = self._consoles.stream(node)
            socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_MOST)
            if not socket.can_prepare(request).ok:
                return web.Response(status=426, headers={"Upgrade": "websocket"}, text="Open it with a WebSocket.")
            reader = stream.join()
        except MetaldError as error:
            return web.Response(status=error.status, body=problem.encode(error), content_type="application/json")
        self._open.add(socket)
        try:
            await socket.prepare(request)
            await self._relay(socket, stream, reader)
        finally:
            reader.leave()
            self._open.discard(socket)
        return socket

    async def shutdown(self, _application: web.Application) -> None:
        """Send everybody away: the daemon stops."""
        for socket in list(self._open):
            await socket.close(code=_GOING_AWAY, message=b"metald stops")

    async def _relay(self, socket: web.WebSocketResponse, stream: ConsoleStream, reader: Reader) -> None:
        async def shows() -> None:
            while data := await reader.read():
                await socket.send_bytes(data)
            await socket.close()

        showing = asyncio.create_task(shows())
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    await stream.write(message.data)
                elif message.type is WSMsgType.TEXT:
                    await stream.write(message.data.encode())
        finally:
            showing.cancel()
            await asyncio.wait([showing])
