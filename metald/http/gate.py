"""The API's door: every connection has a deadline for what it does, and a place only while there are places.

aiohttp takes as many connections as come and lets a client read its answer as slowly as it likes. Each connection's protocol
is therefore wrapped by one that knows what the connection is at. Rules:

- A request's head must be whole within `header_timeout` of its first byte (or of the connection), else it is answered 408.
  Between requests a connection may be silent for `idle_timeout`; then it is closed. Bodies have their own deadlines (`body`).
- An answer must be taken: a client that takes less than 256 KiB of it within `write_timeout` is cut off.
- There are at most `max_connections`, and never more than the system's limit of open files permits beside what the rest of
  the daemon needs. At the limit the connection that has waited longest without a whole request makes room for the new one,
  so that clients who only hang about never keep out those who ask. Where all are being answered, the new one is turned away.
- What clients have sent of bodies and have not taken of answers is `max_buffered` bytes at most; above that, who has held on
  longest goes.
- Requests that change something begin a few in each round of the loop, in the order they came: a crowd of them is read, and waits here
  while others are served.
- Each refusal is logged once; a flood of them once a minute, with their number.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from functools import partial

import orjson

from metald import runtime
from metald.config import Api
from metald.http import problem
from metald.turns import Calls

_log = logging.getLogger(__name__)

_PROGRESS = 256 << 10
"""Bytes of an answer that a client must take within the deadline."""
_MOST_HEAD = 64 << 10
"""Bytes of a head that may come slowly; a larger one has a second left."""
_CHANGES_EACH_ROUND = 2
_READS = (b"G", b"H", b"O")
"""How the methods begin that change nothing."""
_FAREWELL = 2.0
"""Seconds for the last bytes of a refusal to leave."""
_SAY_EVERY = 60.0
_BODY = orjson.dumps(
    {
        "error_message": orjson.dumps(
            {"code": 408, "title": "Request Timeout", "description": "The head of the request did not come in time."}
        ).decode(),
        "metald": problem.own("routing", "Send the whole head at once.", "headers"),
    }
)
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
    + str(len(_BODY)).encode()
    + b"\r\n\r\n"
    + _BODY
)


def places(settings: Api) -> int:
    """How many connections there may be: a quarter of the open files, and at least 256, are for the rest of the daemon."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings.max_connections if files < 0 else max(8, min(settings.max_connections, files - max(files // 4, 256)))


class Gate:
    """The connections of one API.

    Args:
        settings: the deadlines, and how many connections at most.
        limit: how many connections at most, where the settings shall not say; see `places`.
    """

    def __init__(self, settings: Api, limit: int | None = None) -> None:
        self.settings = settings
        self.shed = 0
        """Connections that had to make room or were turned away."""
        self._limit = limit
        self._inside: dict[asyncio.BaseProtocol, _Guard] = {}
        self._waiting: dict[_Guard, None] = {}
        self._held: dict[_Guard, int] = {}
        self._held_sum = 0
        self.changes = Calls(_CHANGES_EACH_ROUND)
        """Lets requests in that change something."""
        self._said = float("-inf")
        self._said_of = 0

    def __len__(self) -> int:
        return len(self._inside)

    def factory(self, server: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """What `loop.create_server` makes its protocols with."""
        if self._limit is None:
            self._limit = places(self.settings)
        return lambda: _Guard(self, server())

    def taken(self, protocol: asyncio.BaseProtocol | None) -> None:
        """The head of a request is there, and its body is read next."""
        if protocol is not None and (guard := self._inside.get(protocol)) is not None:
            guard.taken()

    def read(self, protocol: asyncio.BaseProtocol | None, size: int) -> None:
        """So many bytes of a request's body are kept."""
        if protocol is not None and (guard := self._inside.get(protocol)) is not None:
            self.hold(guard, size)

    def whole(self, protocol: asyncio.BaseProtocol | None) -> None:
        """A request is whole: from now on the connection is metald's to answer, and keeps its place."""
        if protocol is not None and (guard := self._inside.get(protocol)) is not None:
            self._waiting.pop(guard, None)
            self.hold(guard, 0)

    def answered(self, protocol: asyncio.BaseProtocol | None) -> None:
        """The answer is written; the connection waits for the next request."""
        if protocol is not None and (guard := self._inside.get(protocol)) is not None:
            self._waiting.pop(guard, None)
            self._waiting[guard] = None
            guard.idle()

    def enter(self, guard: _Guard) -> bool:
        """Whether the connection may stay."""
        assert self._limit is not None
        if len(self._inside) >= self._limit:
            self.shed += 1
            self._say()
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            oldest.end()
            self.leave(oldest)
        self._inside[guard.inner] = guard
        self._waiting[guard] = None
        return True

    def leave(self, guard: _Guard) -> None:
        """The connection is gone."""
        self._inside.pop(guard.inner, None)
        self._waiting.pop(guard, None)
        self.hold(guard, 0)

    def hold(self, guard: _Guard, size: int) -> None:
        """What is kept in memory for a connection; who has held on longest goes when it is too much in all."""
        self._held_sum += size - self._held.pop(guard, 0)
        if size:
            self._held[guard] = size
        while self._held_sum > self.settings.max_buffered and len(self._held) > 1:
            oldest = next(iter(self._held))
            _log.info("a connection of %s had to go: %d bytes are held for slow clients (api.max_buffered)", oldest.who, self._held_sum)
            oldest.end()
            self.leave(oldest)

    def close(self) -> None:
        """End every connection that is still there."""
        for guard in list(self._inside.values()):
            guard.end()

    def _say(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said >= _SAY_EVERY:
            _log.warning(
                "%d connections are open, which is all there may be (api.max_connections, and the limit of open files); "
                "%d that waited or came in vain had to go",
                len(self._inside),
                self.shed - self._said_of,
            )
            self._said, self._said_of = now, self.shed


class _Guard(asyncio.Protocol):
    __slots__ = ("_busy", "_deadline", "_gate", "_head", "_loop", "_number", "_stalled", "_timer", "_transport", "_waits", "inner")

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._number = -1
        self._head = 0
        """Bytes that have come of a head."""
        self._busy = False
        """Whether a request is being read or answered."""
        self._stalled: asyncio.TimerHandle | None = None
        self._waits = False
        """Whether what came waits for its turn."""

    @property
    def who(self) -> str:
        """The client's address."""
        address = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(address[0]) if isinstance(address, tuple) and address else "somebody"

    # -- what the gate is told

    def taken(self) -> None:
        self._busy, self._head = True, 0

    def idle(self) -> None:
        self._busy = False
        self._hurry(self._gate.settings.idle_timeout)

    def end(self) -> None:
        """Cut the connection off, with whatever was still to go out."""
        if self._transport is not None:
            self._transport.abort()

    # -- deadlines

    def _check(self) -> None:
        self._timer = None
        if self._transport is None:
            return
        left = self._deadline - self._loop.time()
        if self._busy or self._waits or left > 0:
            # While it is busy others watch over it; this only has to notice when it is not.
            wait = left if left > 0 else self._gate.settings.idle_timeout
            self._timer = self._loop.call_later(wait, self._check)
            return
        if self._head and not self._transport.is_closing():
            _log.info("a request of %s -> 408 its head was not whole within %g s", self.who, self._gate.settings.header_timeout)
            self._transport.write(_TOO_SLOW)
            self._transport.close()
            self._timer = self._loop.call_later(_FAREWELL, self.end)
            return
        self.end()

    def _check_progress(self, before: int) -> None:
        self._stalled = None
        if self._transport is None:
            return
        size = self._transport.get_write_buffer_size()
        if before - size < _PROGRESS:
            _log.info("an answer to %s was not taken within %g s: cut off", self.who, self._gate.settings.write_timeout)
            self.end()
        else:
            self._gate.hold(self, size)
            self._stalled = self._loop.call_later(self._gate.settings.write_timeout, self._check_progress, size)

    def _hurry(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._check)

    # -- the protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._gate.enter(self):
            transport.abort()
            return
        self._transport = transport
        self._number = transport.get_extra_info("socket").fileno()
        runtime.prefer(self._number)
        wait = self._gate.settings.header_timeout
        self._deadline = self._loop.time() + wait
        self._timer = self._loop.call_later(wait, self._check)
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        runtime.prefer(self._number, preferred=False)
        self._timer = self._stalled = self._transport = None
        self._gate.leave(self)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        if self._busy or self._head or data[:1] in _READS:
            self._take(data)
            return
        self._waits = True
        self._gate.changes.soon(partial(self._turn, data))
        if self._waits:
            self._transport.pause_reading()
            self._gate.hold(self, len(data))

    def _turn(self, data: bytes) -> None:
        self._waits = False
        if self._transport is not None:
            self._gate.hold(self, 0)
            self._transport.resume_reading()
            self._take(data)

    def _take(self, data: bytes) -> None:
        if not self._busy:
            if not self._head:
                self._hurry(self._gate.settings.header_timeout)
            elif self._head <= _MOST_HEAD < self._head + len(data):
                self._hurry(1.0)
            self._head += len(data)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        if self._transport is not None and self._stalled is None:
            size = self._transport.get_write_buffer_size()
            self._gate.hold(self, size)
            self._stalled = self._loop.call_later(self._gate.settings.write_timeout, self._check_progress, size)
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            self._gate.hold(self, 0)
        self.inner.resume_writing()
