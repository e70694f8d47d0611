"""A TCP proxy that a test can make deaf in each direction, or cut."""

from __future__ import annotations

import asyncio
import contextlib


class TcpProxy:
    """Forwards 127.0.0.1:`port` to an address. An async context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._muted = False
        self._held = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def mute(self) -> None:
        """From now on nothing of what the server says arrives, until the next connection after `cut`."""
        self._muted = True

    def hold(self) -> None:
        """From now on nothing of what the client says arrives, until the next connection after `cut`."""
        self._held = True

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._muted = self._held = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, target, answers in ((reader, far_writer, False), (far_reader, writer, True)):
            task = asyncio.ensure_future(self._forward(source, target, answers=answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not (self._muted if answers else self._held):
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
