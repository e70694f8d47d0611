"""The network card of a simulated machine, as a relay between its ramdisk and metald's boot HTTP server.

It counts the bytes that come in, and can stand still or tell when so many have come: that is how a test puts an event at
an exact byte of an image. One relay lives as long as one boot; `cut` ends it like a pulled cable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

_CHUNK = 64 << 10
_HEAD_LIMIT = 64 << 10


class Wire:
    """Relays HTTP from a port of its own to the server at `url`.

    Args:
        url: base URL of the server.
        watch: told after each piece how many bytes have come in during this boot; true lets the relay stand still
            until `go_on`.
    """

    def __init__(self, url: str, watch: Callable[[int], bool]) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 80)
        self._path = parts.path
        self._watch = watch
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._going = asyncio.Event()
        self._going.set()
        self.received = 0

    async def start(self) -> str:
        """Listen; returns the URL that leads through here."""
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        return f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}{self._path}"

    def go_on(self) -> None:
        """Let bytes through again."""
        self._going.set()

    def cut(self) -> None:
        """End everything at once."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            # The stream server would report it; `cut` is who cancels, and nobody waits for this task.
            return
        finally:
            self._tasks.discard(task)
            self._drop(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        request = await reader.readuntil(b"\r\n\r\n")
        answers, server = await asyncio.open_connection(*self._server)
        self._writers.add(server)
        try:
            server.write(request)
            while data := await answers.read(_CHUNK):
                await self._going.wait()
                writer.write(data)
                await writer.drain()
                self.received += len(data)
                if self._watch(self.received):
                    self._going.clear()
        finally:
            self._drop(server)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        with contextlib.suppress(OSError):
            writer.close()
