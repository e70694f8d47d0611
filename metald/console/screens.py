"""The screens of machines that are enabled, by node: where each is served by RFB.

Rules: each listens on loopback, for metald's own way in alone; what it holds is owned here and ends with it; a client that
sends what is no RFB, or does not read, loses its connection and disturbs nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from metald.console.rfb import NotRfb, Screen
from metald.errors import NotFound
from metald.model import Event

HOST = "127.0.0.1"
_CHUNK = 4096
_DRAIN_TIMEOUT = 30.0
_MOST = 32
"""Connections to one screen at once."""


class _Served:
    """One screen that listens."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, prefer: int) -> None:
        """Listen, at the preferred port if it is free."""
        try:
            self._server = await asyncio.start_server(self._connected, HOST, prefer)
        except OSError:
            self._server = await asyncio.start_server(self._connected, HOST, 0)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no longer, and end every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) <= _MOST:
                await self._serve(reader, writer)
        except (OSError, NotRfb, TimeoutError):
            pass  # the client is gone, speaks something else, or does not read
        except asyncio.CancelledError:
            pass  # only `close` cancels, and it waits for nothing but the end
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        screen = Screen(self._name)
        writer.write(screen.greeting())
        while data := await reader.read(_CHUNK):
            writer.write(screen.receive(data))
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await writer.drain()


class Screens:
    """All screens of the daemon."""

    def __init__(self) -> None:
        self._open: dict[str, _Served] = {}
        self._closing: set[asyncio.Future[None]] = set()

    async def open(self, node: str, name: str, *, prefer: int = 0) -> int:
        """Serve a node's screen; one that is served already stays as it is.

        Args:
            node: whose.
            name: what it is called.
            prefer: the port to take if it is free.

        Returns:
            The port.
        """
        if node not in self._open:
            served = _Served(name)
            await served.start(prefer)
            self._open[node] = served
        return self._open[node].port

    async def close(self, node: str) -> None:
        """Serve it no longer; nothing when it is not served."""
        served = self._open.pop(node, None)
        if served is not None:
            await served.close()

    async def close_all(self) -> None:
        """Serve none any longer."""
        for node in list(self._open):
            await self.close(node)
        if self._closing:
            await asyncio.wait(self._closing)

    def address(self, node: str) -> tuple[str, int]:
        """Where a node's screen is.

        Raises:
            NotFound: it is not enabled.
        """
        served = self._open.get(node)
        if served is None:
            raise NotFound(f"The console of node {node} is not enabled.", remedy="Enable it: `baremetal node console enable`.")
        return HOST, served.port

    def follow(self, events: Iterable[Event]) -> None:
        """Take note of what happened: the screen of a node that is no more is closed."""
        for event in events:
            if event.type == "node.delete" and event.node_uuid in self._open:
                task = asyncio.ensure_future(self.close(event.node_uuid))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
