"""The door of the boot HTTP server: counts connections and shows out whoever connects and then asks nothing.

aiohttp bounds the wait between two requests but not the wait for the first one, and takes as many connections as
come. Each connection's protocol is therefore wrapped by one that knows when it was made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

_log = logging.getLogger(__name__)


class Gate:
    """Admits up to `limit` connections, each of which must have sent a whole request head within `timeout` seconds."""

    def __init__(self, limit: int, timeout: float) -> None:
        self.refused = 0
        self._limit = limit
        self._timeout = timeout
        self._inside: dict[asyncio.Protocol, _Guard] = {}

    def factory(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What `loop.create_server` makes its protocols with."""
        return lambda: _Guard(self, server())

    def asked(self, protocol: asyncio.BaseProtocol | None) -> None:
        """A request has come in through this connection."""
        guard = self._inside.get(protocol) if isinstance(protocol, asyncio.Protocol) else None
        if guard is not None:
            guard.asked()

    def close(self) -> None:
        """End every connection that is still there."""
        for guard in list(self._inside.values()):
            guard.end()

    def enter(self, guard: _Guard) -> bool:
        """Whether the connection may stay."""
        if len(self._inside) >= self._limit:
            if not self.refused:
                _log.warning("boot HTTP: %d connections are open, further ones are refused (boot.http_connections)", self._limit)
            self.refused += 1
            return False
        self._inside[guard.inner] = guard
        guard.timer = asyncio.get_running_loop().call_later(self._timeout, guard.end)
        return True

    def leave(self, guard: _Guard) -> None:
        """The connection is gone."""
        self._inside.pop(guard.inner, None)


class _Guard(asyncio.Protocol):
    __slots__ = ("_gate", "_transport", "inner", "timer")

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self.inner = inner
        self.timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def asked(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._gate.enter(self):
            transport.abort()
            return
        self._transport = transport
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self.asked()
        self._transport = None
        self._gate.leave(self)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
