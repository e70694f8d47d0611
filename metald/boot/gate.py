"""The door of the boot HTTP server: so many connections are served at once, the others wait for their turn.

aiohttp bounds the wait between two requests but not the wait for the first one, and takes as many connections as come. Each
connection's protocol is therefore wrapped by one that knows what the connection is at. Rules:

- A fleet that is switched on at once is served in the order it comes: at the limit a connection that has been answered and
  asks nothing makes room, the one for longest first; where there is none the new one waits, unread, for a place.
- Whoever has a place and asks nothing is shown out after a while.
- Only when several times the limit wait, or open files run out, is a connection refused.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable

from aiohttp import web

from metald.limits import Queue

_log = logging.getLogger(__name__)

_MOST_WAITING = 8
"""Connections that may wait, as a multiple of the limit."""


def _most_waiting(limit: int) -> int:
    """How many may wait: a quarter of the open files, and at least 256, are for the rest of the daemon."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_WAITING * limit if files < 0 else max(0, min(_MOST_WAITING * limit, files - max(files // 4, 256) - limit))


class Gate:
    """Serves up to `limit` connections at once, each of which must have sent a whole request head within `timeout` seconds."""

    def __init__(self, limit: int, timeout: float) -> None:
        self.queue = Queue("a connection to the boot server", "boot.http_connections")
        self.refused = 0
        self._limit = limit
        self._timeout = timeout
        self._inside: dict[asyncio.Protocol, _Guard] = {}
        self._idle: dict[_Guard, None] = {}
        self._waiting: dict[_Guard, int] = {}
        self._closed = False

    def factory(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What `loop.create_server` makes its protocols with."""
        return lambda: _Guard(self, server())

    def asked(self, protocol: asyncio.BaseProtocol | None) -> None:
        """A request has come in through this connection."""
        guard = self._of(protocol)
        if guard is not None:
            self._idle.pop(guard, None)
            guard.asked()

    def answered(self, protocol: asyncio.BaseProtocol | None) -> None:
        """It has its answer, or as good as: the connection may go when others want its place."""
        guard = self._of(protocol)
        if guard is not None:
            self._idle[guard] = None
            self._admit()

    def _of(self, protocol: asyncio.BaseProtocol | None) -> _Guard | None:
        return self._inside.get(protocol) if isinstance(protocol, asyncio.Protocol) else None

    def close(self) -> None:
        """End every connection that is still there."""
        self._closed = True
        for guard in (*self._waiting, *self._inside.values()):
            guard.abort()

    def came(self, guard: _Guard) -> None:
        """A connection was made: it gets a place, waits for one, or is refused."""
        if len(self._inside) >= self._limit and not self._idle:
            if len(self._waiting) >= _most_waiting(self._limit):
                if not self.refused:
                    _log.warning("boot HTTP: %d connections wait, further ones are refused (boot.http_connections)", len(self._waiting))
                self.refused += 1
                guard.abort()
                return
            guard.hold()
        self._waiting[guard] = self.queue.enter()
        self._admit()

    def _admit(self) -> None:
        while self._waiting and not self._closed:
            if len(self._inside) >= self._limit:
                oldest = next(iter(self._idle), None)
                if oldest is None:
                    return
                self._forget(oldest)
                oldest.close()
            guard = next(iter(self._waiting))
            self.queue.leave(self._waiting.pop(guard))
            self._inside[guard.inner] = guard
            guard.enter(asyncio.get_running_loop().call_later(self._timeout, guard.abort))

    def left(self, guard: _Guard) -> None:
        """The connection is gone."""
        ticket = self._waiting.pop(guard, None)
        if ticket is not None:
            self.queue.leave(ticket)
        self._forget(guard)
        self._admit()

    def _forget(self, guard: _Guard) -> None:
        self._inside.pop(guard.inner, None)
        self._idle.pop(guard, None)


class _Guard(asyncio.Protocol):
    __slots__ = ("_gate", "_is_in", "_timer", "_transport", "inner")

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self.inner = inner
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._is_in = False

    def asked(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hold(self) -> None:
        """Read nothing until `enter`."""
        assert self._transport is not None
        self._transport.pause_reading()

    def enter(self, timer: asyncio.TimerHandle) -> None:
        assert self._transport is not None
        self._timer, self._is_in = timer, True
        self.inner.connection_made(self._transport)
        self._transport.resume_reading()

    def close(self) -> None:
        """End it once what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._gate.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.asked()
        self._transport = None
        self._gate.left(self)
        if self._is_in:
            self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._is_in else None

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
