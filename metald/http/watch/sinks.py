"""How a stream is written: as Server-Sent Events, or as messages of a WebSocket.

Rules: every write has a deadline: a client that does not read is cut off, with a last word that it finds when it reads
again. What is written is what is shared by all watchers; nothing is copied or packed for one of them. A stream of Server-Sent
Events passes proxies unbuffered, comes packed to who accepts gzip, and a browser's EventSource resumes it by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

import orjson
from aiohttp import HttpVersion11, WSCloseCode, WSMsgType, web

from metald.http.watch.coding import Block, Gzip, accepts_gzip
from metald.http.watch.frames import Chunk, beat, sse

_RETRY = Block(b"retry: 2000\n\n")
_LAST_WORD = 1.0
_LINGER = 30.0
"""Seconds that a client that was cut off has for taking what is under way to it."""
_MESSAGE = 4096
_AT_ONCE = 32 << 10
"""Bytes that an empty transport takes for certain: half of what it holds before it asks to wait."""


class Stalled(Exception):
    """The client does not read."""


class Gone(Exception):
    """The client left."""


class Sink(Protocol):
    """One stream."""

    response: web.StreamResponse

    async def open(self) -> None:
        """Begin."""

    async def send(self, chunk: Chunk) -> None:
        """Send events.

        Raises:
            Stalled: the client does not read.
            Gone: the client left.
        """

    def taken(self, chunk: Chunk) -> bool:
        """Send events at once, while nothing else is being sent; False, and nothing is sent, if that might have to wait."""

    async def say(self, kind: str, data: bytes, seq: int | None = None) -> None:
        """Send something that is no event of the store. See `send`."""

    async def beat(self, seq: int) -> None:
        """Say that the stream lives, and that everything up to `seq` has been told. See `send`."""

    async def end(self, kind: str, data: Mapping[str, Any]) -> None:
        """Say a last word, which a stalled client gets when it reads again, and close."""


async def _said(word: Coroutine[Any, Any, object]) -> bool:
    """Say a last word; whether it was taken. If not, it is behind what is under way to the client."""
    try:
        async with asyncio.timeout(_LAST_WORD):
            await word
    except (TimeoutError, ConnectionError, Stalled, Gone):
        return False
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # all who write to a connection wait for room by one future of aiohttp's, which the deadline of the last write has cancelled
        return False
    return True


def _let_go(transport: asyncio.Transport | None) -> None:
    """Close a connection, at last without what the client has not taken; one that is closed already does not mind."""
    if transport is not None:
        transport.close()
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)


class SseSink:
    """Server-Sent Events.

    Args:
        request: whose answer it is.
        headers: what every answer of the API carries.
        stall: seconds that a write may take.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str], stall: float) -> None:
        self._request = request
        self._stall = stall
        own = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store, no-transform",
            "X-Accel-Buffering": "no",
            "Vary": "Accept-Encoding",
        }
        self._gzip = Gzip() if accepts_gzip(",".join(request.headers.getall("Accept-Encoding", ()))) else None
        if self._gzip is not None:
            own["Content-Encoding"] = "gzip"
        self.response = web.StreamResponse(headers={**headers, **own})

    async def open(self) -> None:
        """See Sink."""
        if self._request.version >= HttpVersion11:
            self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)
        await self._write(_RETRY)

    async def send(self, chunk: Chunk) -> None:
        """See Sink."""
        await self._write(chunk.sse)

    def taken(self, chunk: Chunk) -> bool:
        """See Sink."""
        block, transport = chunk.sse, self._request.transport
        if transport is None or transport.is_closing() or not self.response.chunked:
            return False
        if transport.get_write_buffer_size():
            return False
        data = block.plain_chunk if self._gzip is None else block.packed_chunk
        if self._gzip is not None:
            self._gzip.count(block)
        # aiohttp's writer would put the same chunk together for each watcher anew; what the kernel does not take at once is what the next
        # chunk has to wait for, with a deadline
        transport.write(data)
        return True

    async def say(self, kind: str, data: bytes, seq: int | None = None) -> None:
        """See Sink."""
        await self._write(Block(sse(kind, data, seq)))

    async def beat(self, seq: int) -> None:
        """See Sink."""
        await self._write(beat(seq))

    async def end(self, kind: str, data: Mapping[str, Any]) -> None:
        """See Sink."""
        transport = self._request.transport
        last = self._encoded(Block(sse(kind, orjson.dumps(data))))
        if not await _said(self.response.write_eof(last if self._gzip is None else last + self._gzip.end())):
            _let_go(transport)

    def _encoded(self, block: Block) -> bytes:
        return block.plain if self._gzip is None else self._gzip.encode(block)

    def _has_room(self, size: int) -> bool:
        transport = self._request.transport
        return transport is not None and size <= _AT_ONCE and not transport.get_write_buffer_size()

    async def _write(self, block: Block) -> None:
        data = self._encoded(block)
        try:
            if self._has_room(len(data)):
                await self.response.write(data)  # the transport takes it without waiting: no deadline needs to be paid for
                return
            async with asyncio.timeout(self._stall):
                await self.response.write(data)
        except TimeoutError:
            raise Stalled from None
        except ConnectionError:
            raise Gone from None


class WebSocketSink:
    """A WebSocket: each event is a text message; what is no event has a `kind` instead of a `type`.

    Args:
        request: the request to upgrade.
        headers: what every answer of the API carries.
        stall: seconds that a write may take.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str], stall: float) -> None:
        self._request = request
        self._stall = stall
        # compression would be paid for each watcher anew; who does not read answers no pings, and would be gone before its last word
        self.socket = web.WebSocketResponse(compress=False, max_msg_size=_MESSAGE, timeout=_LAST_WORD)
        self.socket.headers.update({name: value for name, value in headers.items() if name.lower() != "content-type"})
        self.response: web.StreamResponse = self.socket
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See Sink."""
        await self.socket.prepare(self._request)
        self._reader = asyncio.create_task(self._read(), name="watcher's socket")

    async def _read(self) -> None:
        """Answer pings and notice the close; what a watcher says means nothing."""
        while (await self.socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
            pass

    async def send(self, chunk: Chunk) -> None:
        """See Sink."""
        for frame in chunk.frames:
            await self._write(frame.json)

    def taken(self, _chunk: Chunk) -> bool:
        """See Sink."""
        return False

    async def say(self, kind: str, data: bytes, seq: int | None = None) -> None:
        """See Sink."""
        place = b"" if seq is None else b'"seq":%d,' % seq
        await self._write(b'{"kind":"%s",%s"data":%s}' % (kind.encode(), place, data))

    async def beat(self, seq: int) -> None:
        """See Sink."""
        await self.say("heartbeat", b"{}", seq)

    async def end(self, kind: str, data: Mapping[str, Any]) -> None:
        """See Sink."""
        transport = self._request.transport
        await _said(self.say(kind, orjson.dumps(data)))
        await _said(self.socket.close(code=WSCloseCode.GOING_AWAY, message=kind.encode()))
        _let_go(transport)

    async def leave(self) -> None:
        """Let go of the task that reads."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _write(self, data: bytes) -> None:
        if self.socket.closed:
            raise Gone
        try:
            async with asyncio.timeout(self._stall):
                await self.socket.send_frame(data, WSMsgType.TEXT)
        except TimeoutError:
            raise Stalled from None
        except (ConnectionError, RuntimeError):
            raise Gone from None
