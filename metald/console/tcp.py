"""One console on a TCP port of its own: bytes both ways, as `socat` serves them. There is no password on this way in, so it
listens on loopback unless the settings say otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from metald.console.stream import ConsoleStream
from metald.errors import Unavailable

_CHUNK = 4096
_DRAIN_TIMEOUT = 30.0
_GRACE = 1.0


class TcpConsole:
    """The TCP port of one console."""

    def __init__(self, stream: ConsoleStream, host: str, port: int) -> None:
        self._stream, self._host, self.port = stream, host, port
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"tcp://{host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._server = await asyncio.start_server(self._connected, self._host, self.port, family=family)

    async def close(self) -> None:
        """Listen no longer, and end every connection; the stream has ended, so that most end by themselves."""
        if self._server is not None:
            self._server.close()
        if self._clients:
            await asyncio.wait(self._clients, timeout=_GRACE)
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, Unavailable, TimeoutError):
            pass  # the client is gone, does not read, or is one too many
        except asyncio.CancelledError:
            pass  # only `close` cancels, and it waits for nothing but the end
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        looking = self._stream.join()
        typing = asyncio.ensure_future(self._type(reader))
        typing.add_done_callback(lambda _: looking.end())
        try:
            while data := await looking.read():
                writer.write(data)
                async with asyncio.timeout(_DRAIN_TIMEOUT):
                    await writer.drain()
        finally:
            looking.leave()
            typing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await typing

    async def _type(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self._stream.write(data)
