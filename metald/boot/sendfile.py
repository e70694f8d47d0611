"""Sends a file, or a range of it, over HTTP by `sendfile`, in slices that each have a deadline; over TLS by reads and writes.

aiohttp's own file response waits for ever for a client that stopped reading; here a client that takes longer than
`stall` seconds for one slice loses its connection. The kernel is told to read the next slice ahead, so that a cold
page cache does not stop the loop for long.

Rules: the file is opened once and what it was then (size, mtime) is what headers and body tell of.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from aiohttp import ETag, web

from metald.boot.files import open_regular
from metald.limits import Bandwidth

_SLICE = 4 << 20
_TICK = 0.1
"""Seconds' worth of a limited bandwidth that one client takes at a time, so that many share it evenly."""
_LEAST = 16 << 10
_CHUNK = 512 << 10
"""Bytes that are read, encrypted and written at a time under TLS: few enough for the loop, enough to be worth a thread's turn."""


@dataclass(slots=True)
class Sent:
    """What went out: the status of the answer and how many bytes of body."""

    status: int = 200
    bytes: int = 0
    error: str = ""


async def send_file(request: web.Request, path: Path, sent: Sent, bandwidths: Sequence[Bandwidth], *, stall: float) -> web.StreamResponse:
    """Answer a GET or HEAD request with a file. Honours Range, If-Range, If-None-Match, If-Modified-Since.

    Args:
        sent: kept up to date while the body leaves, for whoever tells of it when the client went away.
        bandwidths: what all clients share, and what this one has.
        stall: seconds that a client may take for 4 MiB.

    Raises:
        NotFound: see `open_regular`.
        ConnectionError: the client went away before the head was sent. Later than that `sent.error` tells.
    """
    file, facts = await asyncio.to_thread(open_regular, path)
    with file:
        response = web.StreamResponse(headers={"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"})
        response.etag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
        response.last_modified = facts.st_mtime
        start, count = _conditions(request, response, facts)
        sent.status = response.status
        response.content_length = count
        await response.prepare(request)
        if count and request.method != "HEAD":
            await _send_body(request, response, file, start, count, sent, bandwidths, stall)
    return response


def _conditions(request: web.Request, response: web.StreamResponse, facts: os.stat_result) -> tuple[int, int]:
    """Set the status that the request's conditions call for; return offset and length of the body."""
    size = facts.st_size
    etag = response.etag
    assert etag is not None
    if _unchanged(request, etag, facts.st_mtime):
        response.set_status(304)
        return 0, 0
    if "Range" not in request.headers or not _if_range_holds(request, etag, facts.st_mtime):
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


def _unchanged(request: web.Request, etag: ETag, mtime: float) -> bool:
    wanted = request.if_none_match
    if wanted is not None:
        return any(given.value in (etag.value, "*") for given in wanted)
    since = request.if_modified_since
    return since is not None and int(mtime) <= since.timestamp()


def _if_range_holds(request: web.Request, etag: ETag, mtime: float) -> bool:
    given = request.headers.get("If-Range")
    if given is None:
        return True
    if given.startswith('"'):
        return given == f'"{etag.value}"'
    since = request.if_range
    return since is not None and int(mtime) <= since.timestamp()


async def _send_body(
    request: web.Request,
    response: web.StreamResponse,
    file: BufferedReader,
    start: int,
    count: int,
    sent: Sent,
    bandwidths: Sequence[Bandwidth],
    stall: float,
) -> None:
    loop = asyncio.get_running_loop()
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("The client went away.")
    at, end = start, start + count
    encrypted = transport.get_extra_info("sslcontext") is not None
    rate = min((each.rate for each in bandwidths if each.rate), default=0)
    slice_size = min(_SLICE, max(_LEAST, int(rate * _TICK))) if rate else _SLICE
    try:
        while at < end:
            size = min(slice_size, end - at)
            for each in bandwidths:
                await each.take(size)
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), at + size, _SLICE, os.POSIX_FADV_WILLNEED)
            async with asyncio.timeout(stall):
                if encrypted:
                    went = await _send_encrypted(response, file, at, size)
                else:
                    went = await loop.sendfile(transport, file, at, size)
            sent.bytes += went
            at += went
            if went < size:
                raise ConnectionResetError("The file became shorter while it was sent.")
    except TimeoutError:
        sent.error = "the client stalled"
    except OSError as error:
        sent.error = f"the client went away ({error.strerror or error})"
    finally:
        if at < end:
            # The body is cut short: only an abrupt end tells the client so.
            transport.abort()


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
