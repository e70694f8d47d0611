"""Sends a body, or a range of it, over HTTP by `sendfile`, in slices that each have a deadline; over TLS by reads and writes.

aiohttp's own file response waits for ever for a client that stopped reading; here a client that takes longer than
`stall` seconds for 4 MiB loses its connection. What is still on its way here is sent as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import Protocol, Self

from aiohttp import web

from metald.boot.body import Body, Piece
from metald.boot.pump import Pump, Way
from metald.errors import ImageError

_SLICE = 4 << 20
_TICK = 0.1
"""Seconds' worth of a limited bandwidth that one client takes at a time, so that many share it evenly."""
_LEAST = 16 << 10
_WHOLE = 1 << 40
_PAUSE = 0.01
_CHUNK = 512 << 10
"""Bytes that are read, encrypted and written at a time under TLS: few enough for the loop, enough to be worth a thread's turn."""


@dataclass(slots=True)
class Sent:
    """What went out: the status of the answer and how many bytes of body."""

    status: int = 200
    bytes: int = 0
    error: str = ""
    handed: bool = False
    """Whether somebody in front of us sends it."""


class Limiter(Protocol):
    """A bandwidth."""

    rate: int
    """Bytes a second; 0 does not limit."""

    async def take(self, size: int) -> None:
        """Return when `size` more bytes may leave."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How bodies leave.

    Args:
        bandwidths: what all clients share, and what this one has.
        stall: seconds that a client may take for 4 MiB.
    """

    pump: Pump
    bandwidths: Sequence[Limiter]
    stall: float


async def send(request: web.Request, body: Body, sent: Sent, sending: Sending) -> web.StreamResponse:
    """Answer a GET or HEAD request with a body, and close it. Honours Range, If-Range, If-None-Match, If-Modified-Since.

    Args:
        sent: kept up to date while the body leaves, for whoever tells of it when the client went away.

    Raises:
        ConnectionError: the client went away before the head was sent. Later than that `sent.error` tells.
    """
    with contextlib.closing(body):
        response = web.StreamResponse(headers={"Accept-Ranges": "bytes", "Content-Type": body.content_type})
        response.etag = body.etag
        response.last_modified = body.modified
        start, count = _conditions(request, response, body)
        sent.status = response.status
        response.content_length = count
        await response.prepare(request)
        if count and request.method != "HEAD":
            await _send_body(request, response, body, start, count, sent, sending)
    return response


def _conditions(request: web.Request, response: web.StreamResponse, body: Body) -> tuple[int, int]:
    """Set the status that the request's conditions call for; return offset and length of what is sent."""
    size = body.size
    if _unchanged(request, body):
        response.set_status(304)
        return 0, 0
    if "Range" not in request.headers or not _if_range_holds(request, body):
        return 0, size
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(size, None)
    start = wanted.start or 0
    if start < 0:
        start = max(0, size + start)
    stop = size if wanted.stop is None else min(wanted.stop, size)
    if start >= stop:
        response.set_status(416)
        response.headers["Content-Range"] = f"bytes */{size}"
        return 0, 0
    response.set_status(206)
    response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return start, stop - start


def _unchanged(request: web.Request, body: Body) -> bool:
    wanted = request.if_none_match
    if wanted is not None:
        return any(given.value in (body.etag, "*") for given in wanted)
    since = request.if_modified_since
    return since is not None and body.modified is not None and int(body.modified) <= since.timestamp()


def _if_range_holds(request: web.Request, body: Body) -> bool:
    given = request.headers.get("If-Range")
    if given is None:
        return True
    if given.startswith('"'):
        return given == f'"{body.etag}"'
    since = request.if_range
    return since is not None and body.modified is not None and int(body.modified) <= since.timestamp()


async def _send_body(
    request: web.Request, response: web.StreamResponse, body: Body, start: int, count: int, sent: Sent, sending: Sending
) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("The client went away.")
    goal = sent.bytes + count
    try:
        with _Exit(response, transport, sending) as way:
            for piece, at, size in body.spans(start, count, way.slice_size(body)):
                await piece.ready(at + size)
                for each in sending.bandwidths:
                    await each.take(size)
                if await way.send(piece, at, size, sent) < size:
                    raise ConnectionResetError("The file became shorter while it was sent.")
    except TimeoutError:
        sent.error = "the client stalled"
    except ImageError as error:
        sent.error = str(error)
    except OSError as error:
        sent.error = f"the client went away ({error.strerror or error})"
    finally:
        if sent.bytes < goal:
            # The body is cut short: only an abrupt end tells the client so.
            transport.abort()


class _Exit:
    """The way out of one answer: by `sendfile` where that can be, else by reads and writes."""

    def __init__(self, response: web.StreamResponse, transport: asyncio.Transport, sending: Sending) -> None:
        self._response, self._transport, self._sending = response, transport, sending
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        self._way: Way | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._way is not None:
            self._way.__exit__(None, None, None)

    def slice_size(self, body: Body) -> int:
        """How many bytes leave between two looks at limits and at what is on its way here."""
        rate = min((each.rate for each in self._sending.bandwidths if each.rate), default=0)
        if rate:
            return min(_SLICE, max(_LEAST, int(rate * _TICK)))
        whole = not self._encrypted and all(piece.fill is None for piece in body.pieces)
        return _WHOLE if whole else _SLICE

    async def send(self, piece: Piece, at: int, size: int, sent: Sent) -> int:
        """Send a part of a piece; how many bytes went, which are counted also when it fails.

        Raises:
            TimeoutError: the client stalled.
            OSError: it went away.
        """
        if piece.file is None:
            await self._write(piece.data[at : at + size])
            sent.bytes += size
            return size
        if self._encrypted:
            async with asyncio.timeout(self._sending.stall * -(-size // _SLICE)):
                went = await _send_encrypted(self._response, piece.file, at, size)
            sent.bytes += went
            return went
        await self._drained()
        if self._way is None:
            self._way = Way(self._sending.pump, self._transport.get_extra_info("socket").fileno(), self._sending.stall)
        try:
            return await self._way.send(piece.file.fileno(), at, size)
        finally:
            sent.bytes += self._way.went

    async def _write(self, data: bytes | memoryview) -> None:
        async with asyncio.timeout(self._sending.stall):
            for at in range(0, len(data), _CHUNK):
                await self._response.write(data[at : at + _CHUNK])

    async def _drained(self) -> None:
        """Until nothing of ours waits in front of the file: the head, or bytes between two files."""
        if self._transport.get_write_buffer_size() == 0:
            return
        async with asyncio.timeout(self._sending.stall):
            while self._transport.get_write_buffer_size():
                if self._transport.is_closing():
                    raise ConnectionResetError("The client went away.")
                await asyncio.sleep(_PAUSE)


async def _send_encrypted(response: web.StreamResponse, file: BufferedReader, at: int, size: int) -> int:
    """What `sendfile` does where the kernel cannot: it knows nothing of the keys."""
    end, descriptor = at + size, file.fileno()
    while at < end:
        data = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK, end - at), at)
        if not data:
            break
        await response.write(data)
        at += len(data)
    return size - (end - at)
