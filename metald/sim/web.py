"""An HTTP/1.1 client as cheap as a boot ROM's: ten thousand machines fetch through it from addresses of their own.

Rules: one request at a time on a connection, which is kept while the server allows it. Bytes of a body go to a sink as they
come and are not kept; a sink that is slow holds the connection back, as a slow disk does. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Sink = Callable[[bytes], float]
"""Takes a piece of a body; returns the seconds until it can take the next."""

TIMEOUT = 60.0
"""Seconds without a byte."""

_HEAD = 64 << 10
_MOST = 16 << 20


class WebError(Exception):
    """There was no whole answer, or the answer is an error; `status` is 0 for the first."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Answer:
    """What the server said. `size` counts the body, `body` holds it when no sink took it."""

    status: int
    headers: dict[str, str]
    size: int = 0
    body: bytearray = field(default_factory=bytearray)

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body or b"null")


class Web:
    """One machine's client. Close it when the machine's power goes.

    Args:
        source: the address that it asks from.
    """

    __slots__ = ("_kept", "_open", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self._kept: tuple[str, _Wire] | None = None
        self._open: set[_Wire] = set()

    def close(self) -> None:
        """Cut every connection."""
        for wire in list(self._open):
            wire.abort()
        self._open.clear()
        self._kept = None

    async def get(self, url: str, *, sink: Sink | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Fetch a URL.

        Raises:
            WebError: no whole answer came, or its status is not 2xx.
        """
        return await self.ask("GET", url, sink=sink, headers=headers)

    async def post(self, url: str, body: object, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Send JSON. Raises like `get`."""
        return await self.ask("POST", url, data=json.dumps(body).encode(), headers=headers)

    async def ask(
        self, method: str, url: str, *, data: bytes | None = None, sink: Sink | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. Raises like `get`."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            *(f"{k}: {v}" for k, v in (headers or {}).items()),
        ]
        if data is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        request = "\r\n".join([*lines, "", ""]).encode() + (data or b"")
        wire, again = await self._wire(f"{host}:{port}", host, port)
        try:
            answer = await wire.exchange(request, sink)
        except WebError as error:
            self._open.discard(wire)
            if not again or error.status:
                raise
            # the server had closed the kept connection meanwhile
            wire, _ = await self._wire("", host, port)
            answer = await wire.exchange(request, sink)
        if wire.reusable and self._kept is None:
            self._kept = (f"{host}:{port}", wire)
        else:
            wire.abort()
            self._open.discard(wire)
        if not 200 <= answer.status < 300:
            raise WebError(f"{method} {path} answered {answer.status}: {bytes(answer.body[:200]).decode(errors='replace')}", answer.status)
        return answer

    async def _wire(self, key: str, host: str, port: int) -> tuple[_Wire, bool]:
        """A connection, and whether it has been used before."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if kept[0] == key and not kept[1].closed:
                return kept[1], True
            kept[1].abort()
            self._open.discard(kept[1])
        try:
            async with asyncio.timeout(TIMEOUT):
                _, wire = await asyncio.get_running_loop().create_connection(_Wire, host, port, local_addr=(self.source, 0))
        except (OSError, TimeoutError) as error:
            raise WebError(f"cannot connect to {host}:{port}: {error}") from None
        self._open.add(wire)
        return wire, False


class _Wire(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_answer", "_chunks", "_done", "_head", "_left", "_sink", "_timer", "_transport", "closed", "reusable")

    def __init__(self) -> None:
        self.closed = self.reusable = False
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._answer: Answer | None = None
        self._left = 0
        self._chunks: _Chunks | None = None
        self._sink: Sink | None = None
        self._done: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, request: bytes, sink: Sink | None) -> Answer:
        loop = asyncio.get_running_loop()
        if self._transport is None or self.closed:
            raise WebError("the connection was closed")
        self._done, self._sink, self._answer = loop.create_future(), sink, None
        self._head.clear()
        self._transport.write(request)
        self._timer = loop.call_later(TIMEOUT, self._late)
        try:
            return await self._done
        finally:
            self._done = None
            self._timer.cancel()

    def abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _late(self) -> None:
        self._fail("nothing came in time")
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        answer = self._answer
        if exc is None and answer is not None and self._left < 0 and self._chunks is None:
            self._end()
        else:
            self._fail(str(exc) if exc else "the connection was closed early")

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(WebError(why))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > _HEAD:
                    self._late()
                return
            data = bytes(self._head[end + 4 :])
            if not self._read_head(bytes(self._head[:end])):
                return
        self._body(data)

    def _read_head(self, head: bytes) -> bool:
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            self._fail(f"this is no HTTP: {lines[0][:60]!r}")
            self.abort()
            return False
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._answer = Answer(int(words[1]), headers)
        self.reusable = headers.get("connection", "").lower() != "close" and words[0] == "HTTP/1.1"
        self._chunks = _Chunks() if "chunked" in headers.get("transfer-encoding", "") else None
        length = headers.get("content-length", "")
        self._left = 0 if self._answer.status in (204, 304) else int(length) if length.isdigit() else -1
        self.reusable = self.reusable and (self._left >= 0 or self._chunks is not None)
        return True

    def _body(self, data: bytes) -> None:
        assert self._answer is not None
        if self._chunks is not None:
            data = self._chunks.feed(data)
            ended = self._chunks.ended
        else:
            if self._left >= 0:
                self._left -= len(data)
            ended = self._left == 0
        if data:
            self._take(data)
        if ended:
            self._end()

    def _take(self, data: bytes) -> None:
        answer = self._answer
        assert answer is not None
        answer.size += len(data)
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._timer.when() - loop.time() < TIMEOUT / 2:
            self._timer.cancel()
            self._timer = loop.call_later(TIMEOUT, self._late)
        if self._sink is None or answer.status >= 300:
            if len(answer.body) < _MOST:
                answer.body += data
            return
        wait = self._sink(data)
        if wait > 0 and self._transport is not None:
            self._transport.pause_reading()
            loop.call_later(wait, self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self) -> None:
        if self._done is not None and not self._done.done() and self._answer is not None:
            self._done.set_result(self._answer)


class _Chunks:
    """Chunked transfer coding (RFC 9112 section 7.1), read piece by piece; trailers are passed over."""

    __slots__ = ("_buffer", "_left", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._buffer = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out = bytearray()
        while not self.ended:
            if self._left > 2:
                piece = self._buffer[: self._left - 2]
                del self._buffer[: len(piece)]
                self._left -= len(piece)
                out += piece
            if self._left and self._left <= 2:
                if len(self._buffer) < self._left:
                    break
                del self._buffer[: self._left]
                self._left = 0
            if self._left:
                break
            end = self._buffer.find(b"\r\n")
            if end < 0:
                break
            size = int(bytes(self._buffer[:end]).partition(b";")[0] or b"0", 16)
            del self._buffer[: end + 2]
            self.ended = size == 0
            self._left = size + 2
        return bytes(out)
