"""One watcher's way: a snapshot if it wants one, the past it has not seen, then the present.

Rules: the past is read from the store page by page until it meets the present; the step from one to the other has no
await in it, so that no event falls between and none comes twice. A place that cannot be resumed from any more is said:
410 to who gave it in the query, an event `gap` to an EventSource that comes back by itself and would give up on 410, and
to whoever reads the past more slowly than it is let go. Of the past a watcher holds `_SIZE`, however slowly it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from metald.errors import Invalid, MetaldError, NotAllowed
from metald.http.watch import past
from metald.http.watch.filters import Filter
from metald.http.watch.frames import Chunk, Frame
from metald.http.watch.hub import End, Hub
from metald.http.watch.sinks import Gone, Sink, SseSink, Stalled, WebSocketSink
from metald.model import Node

_DIGITS = 19
_ROWS = 50
"""Most events in the first page of the past."""
_MOST_ROWS = 1000
_SIZE = 64 << 10
"""Characters of stored events in a page of the past, give or take one event. A watcher holds one page while it is being sent: with what
is made of it and what is under way half a MiB, so that a thousand that come back at once and do not read hold half a GiB together."""
_ENDS = {
    End.SLOW: {
        "code": "slow-consumer",
        "message": "Events came faster than they were read.",
        "remedy": "Resume with the last id, or narrow the filter.",
    },
    End.STOPPING: {"code": "stopping", "message": "metald is stopping.", "remedy": "Resume with the last id in a moment."},
}


class Stream:
    """A watcher that has been admitted and is to be served.

    Args:
        hub: where events come from.
        wanted: which of them.
        since: the number after which to begin; None for the present. A client's `Last-Event-ID` wins over it.
        snapshot: makes the document of a node, if the nodes are to be shown first.
    """

    def __init__(self, hub: Hub, wanted: Filter, *, since: int | None, snapshot: Callable[[Node], bytes] | None) -> None:
        self._hub = hub
        self._wanted = wanted
        self._since = since
        self._resumed = False
        self._snapshot = snapshot
        self._rows = _ROWS

    async def respond(self, request: web.Request, headers: CIMultiDict[str]) -> web.StreamResponse:
        """Answer the request with the stream, to its end.

        Raises:
            Purged: the events after `since` are not kept any more.
            Invalid: `Last-Event-ID` is not a number.
            NotAllowed: a page of another origin opens a WebSocket, which the browser would let it read.
            Unavailable: there are too many watchers.
        """
        settings = self._hub.settings
        self._resume(request.headers.get("Last-Event-ID"))
        with self._hub:
            first = await self._gap()
            if request.headers.get("Upgrade", "").lower() == "websocket":
                _check_origin(request)
                socket = WebSocketSink(request, headers, settings.stall)
                try:
                    await self._serve(socket, first)
                finally:
                    await socket.leave()
                return socket.response
            plain = SseSink(request, headers, settings.stall)
            await self._serve(plain, first)
            return plain.response

    def _resume(self, last: str | None) -> None:
        if not last:
            return
        if not (last.isascii() and last.isdigit() and len(last) < _DIGITS):
            raise Invalid("Last-Event-ID is not the id of an event", remedy="Give the last id that the stream had.", field="Last-Event-ID")
        self._since, self._resumed, self._snapshot = int(last), True, None

    async def _gap(self) -> int | None:
        """The number of the first event after a gap; None when there is no gap.

        Raises:
            Purged: there is one, and the client does not come back by itself.
        """
        if not self._since or self._since == self._hub.store.last_seq:
            return None
        async with self._hub.history:
            page = await self._hub.store.page(since=self._since, limit=1, size=1)
        if not self._resumed:
            past.check(page, self._since)
        return page.gap(self._since)

    async def _serve(self, sink: Sink, first: int | None) -> None:
        try:
            try:
                await sink.open()
                end = await self._follow(sink, first)
            except Stalled:
                end = End.SLOW
            except MetaldError as error:
                await sink.end("error", {"code": error.code, "message": error.message, "remedy": error.remedy})
                return
            self._hub.cut_off += end is End.SLOW
            await sink.end("end", _ENDS[end])
        except (Gone, ConnectionError):
            return

    async def _follow(self, sink: Sink, first: int | None) -> End:
        position = self._hub.store.last_seq if self._since is None else self._since
        if first is not None:
            position = await _tell_gap(sink, position, first)
        if self._snapshot is not None:
            position = await self._show(sink, self._snapshot)
        elif first is None:
            await sink.beat(position)
        ended, position = await self._catch_up(sink, position)
        if ended is not None:
            return ended
        watcher = self._hub.join(self._wanted, position, sink.taken)
        try:
            while True:
                chunk = await watcher.next(self._hub.settings.heartbeat)
                if chunk is not None:
                    await sink.send(chunk)
                elif watcher.end is not None:
                    return watcher.end
                else:
                    watcher.position = max(watcher.position, self._hub.told)
                    await sink.beat(watcher.position)
        finally:
            self._hub.leave(self._wanted, watcher)

    async def _show(self, sink: Sink, document: Callable[[Node], bytes]) -> int:
        """Send the nodes as they are now; returns the number of the last event that they include."""
        seq = self._hub.store.last_seq
        nodes = [node for node in self._hub.store.table(Node) if self._wanted.takes_node(node)]
        for node in nodes:
            await sink.say("snapshot.node", document(node))
        await sink.say("snapshot.end", orjson.dumps({"seq": seq, "nodes": len(nodes)}), seq)
        return seq

    async def _catch_up(self, sink: Sink, position: int) -> tuple[End | None, int]:
        """Send the past after `position`, up to the present."""
        hub, loop = self._hub, asyncio.get_running_loop()
        spoke = loop.time()
        while position < hub.store.last_seq:
            if hub.stopping:
                return End.STOPPING, position
            chunk, gap, end = await self._read(position)
            if gap is not None:
                await _tell_gap(sink, position, gap)
            position = end
            if chunk is not None:
                await sink.send(chunk)
            elif loop.time() - spoke > hub.settings.heartbeat:
                await sink.beat(position)
            else:
                continue
            spoke = loop.time()
        return None, position

    async def _read(self, since: int) -> tuple[Chunk | None, int | None, int]:
        """A page of the past: what is wanted of it, where it begins if that is not behind `since`, and where it ends."""
        async with self._hub.history:
            page = await past.read(self._hub.store, self._wanted, since, limit=self._rows, size=_SIZE)
        # the database looks at the length of each event that is asked for, given or not: not many more than there is room for
        found = len(page.events)
        self._rows = min(2 * found if found == self._rows else found + found // 4 + 1, _MOST_ROWS)
        wished = [Frame(event) for event in page.events if self._wanted.takes(event, self._hub.standing(event))]
        return Chunk(wished) if wished else None, page.gap(since) if since else None, page.end


async def _tell_gap(sink: Sink, since: int, following: int) -> int:
    """Say that events are missing; returns the number of the last of them."""
    data = {"code": "gap", "since": since, "next": following, "remedy": past.REMEDY}
    await sink.say("gap", orjson.dumps(data), following - 1)
    return following - 1


def _check_origin(request: web.Request) -> None:
    origin = request.headers.get("Origin")
    if origin is not None and URL(origin).authority != request.host:
        raise NotAllowed("Another site's page may not watch.", remedy="Open the WebSocket from a page of this server.", field="Origin")
