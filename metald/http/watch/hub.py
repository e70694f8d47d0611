"""The hub: hands each event of the store to the watchers that asked for it.

Rules: watchers with equal filters are one group; an event is matched once for a group, and what matched is joined once.
A group that asked for nodes is found by them: events of other nodes do not cost it anything. The first event goes at once;
those that follow within `_PACE` go together, in a storm those within `_STORM_PACE`, so that each watcher costs a bounded number
of writes. Watchers are served in turns, a few in each round of the loop; one that waits for nothing else is written to without
waking its task. What waits for a watcher is bounded; who does not read is cut off rather than waited for, and what waited is let
go at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

from metald.config import Watch
from metald.errors import Unavailable
from metald.http.watch.filters import Filter
from metald.http.watch.frames import Chunk, Frame
from metald.metrics import Family
from metald.model import Event, Node
from metald.model.event import Standing
from metald.store.store import Store
from metald.turns import Calls

_PACE = 0.1
"""Seconds between two times that watchers are told."""
_STORM_PACE = 0.2
"""The same where the last time there were so many events that nobody waits for one of them."""
_STORM = 200
"""More events than this at a time are a storm."""
_EACH_ROUND = 64
"""Watchers that are served in one round of the loop."""


class End(Enum):
    """Why a stream ends."""

    SLOW = "slow"
    STOPPING = "stopping"


class Watcher:
    """One reader: what waits for it, and whether it must end.

    Args:
        position: number of the last event that it has been told of, or need not be.
        most: bytes that may wait.
        calls: whose turn it is.
        taken: sends a chunk at once while nobody waits in `next` for anything else; False if that is not to be had without waiting.
    """

    def __init__(self, position: int, most: int, calls: Calls, taken: Callable[[Chunk], bool]) -> None:
        self.position = position
        self.end: End | None = None
        self._most = most
        self._calls = calls
        self._taken = taken
        self._waiting: deque[Chunk] = deque()
        self._size = 0
        self._wake: asyncio.Future[None] | None = None

    def offer(self, chunk: Chunk) -> None:
        """Put a chunk before the reader; never blocks."""
        newer = chunk.after(self.position)
        if newer is None or self.end is not None:
            return
        if self._waiting and self._size + newer.size > self._most:  # one batch, however large, is for everybody
            self.stop(End.SLOW)
            return
        self._size += newer.size
        self._waiting.append(newer)
        if self._is_idle:
            self._calls.soon(self._serve)

    @property
    def _is_idle(self) -> bool:
        return self._wake is not None and not self._wake.done()

    def _serve(self) -> bool:
        """Send what waits, as far as that needs no waiting; for the rest wake the reader."""
        if not (self._is_idle and self._waiting):
            return False
        while self._waiting and self._taken(self._waiting[0]):
            self._pop()
        if self._waiting:
            self._rouse()
        return True

    def _pop(self) -> Chunk:
        chunk = self._waiting.popleft()
        self._size -= chunk.size
        self.position = chunk.last_seq
        return chunk

    def stop(self, end: End) -> None:
        """Let the reader end; one that is too slow loses what waits for it."""
        if self.end is None:
            self.end = end
            if end is End.SLOW:
                self._waiting.clear()
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self, patience: float) -> Chunk | None:
        """The next chunk; None at the end, or when nothing came within `patience` seconds."""
        if not self._waiting and self.end is None:
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            alarm = loop.call_later(patience, self._rouse)
            try:
                await self._wake
            finally:
                alarm.cancel()
        return self._pop() if self._waiting else None


class _Group:
    """Watchers with the same filter."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.takes_all = wanted.takes_all
        self.members: set[Watcher] = set()
        self.matched: list[Frame] = []


class Hub:
    """All watchers.

    Args:
        store: whose events are told.
        settings: bounds.
    """

    def __init__(self, store: Store, settings: Watch) -> None:
        self.store = store
        self.settings = settings
        self.stopping = False
        self.cut_off = 0
        """Streams that were ended because they were read too slowly."""
        self.history = asyncio.Semaphore(4)
        """Who reads the past waits here, so that a thousand that come back at once do not starve the rest of the daemon."""
        self.told = store.last_seq
        """The number of the last event that every watcher which wants it has before it."""
        self._seen = store.last_seq
        self._calls = Calls(_EACH_ROUND)
        self._touched: dict[_Group, None] = {}
        self._at = 0.0
        self._pace = _PACE
        self._due: asyncio.TimerHandle | None = None
        self._streams = 0
        self._nodes = store.table(Node)
        self._groups: dict[Filter, _Group] = {}
        self._by_node: dict[str, dict[_Group, None]] = {}
        self._others: dict[_Group, None] = {}
        self._leave: Callable[[], None] = store.subscribe(self._tell)

    def families(self) -> Iterator[Family]:
        """What there is to tell of the watchers."""
        yield Family.one("watchers", "gauge", "Streams of events that are open.", self._streams)
        yield Family.one("watchers_cut_off", "counter", "Streams that were ended because they were read too slowly.", self.cut_off)

    async def shutdown(self, _application: object) -> None:
        """End every stream; the daemon stops."""
        self.stopping = True
        self._leave()
        self._hand_over()
        for group in self._groups.values():
            for watcher in group.members:
                watcher.stop(End.STOPPING)

    def __enter__(self) -> Hub:
        """Count one more stream.

        Raises:
            Unavailable: there are as many as the settings allow, or the daemon stops.
        """
        if self.stopping:
            raise Unavailable("metald is stopping", remedy="Connect again in a moment.")
        if self._streams >= self.settings.connections:
            raise Unavailable(
                f"There are {self._streams} watchers, as many as may be.", remedy="Try again later, or raise api.watch.connections."
            )
        self._streams += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._streams -= 1

    def join(self, wanted: Filter, position: int, taken: Callable[[Chunk], bool]) -> Watcher:
        """Tell a new watcher of events after `position`, which must be the store's last number or a later one.

        Args:
            taken: see Watcher.
        """
        watcher = Watcher(position, self.settings.buffer, self._calls, taken)
        group = self._groups.get(wanted)
        if group is None:
            group = self._groups[wanted] = _Group(wanted)
            for places in self._places(wanted):
                places[group] = None
        group.members.add(watcher)
        if self.stopping:
            watcher.stop(End.STOPPING)
        return watcher

    def leave(self, wanted: Filter, watcher: Watcher) -> None:
        """Forget a watcher."""
        group = self._groups[wanted]
        group.members.discard(watcher)
        if group.members:
            return
        del self._groups[wanted]
        for places in self._places(wanted):
            del places[group]
        for uuid in wanted.nodes:
            if not self._by_node[uuid]:
                del self._by_node[uuid]

    def _places(self, wanted: Filter) -> Iterable[dict[_Group, None]]:
        return [self._by_node.setdefault(uuid, {}) for uuid in wanted.nodes] if wanted.nodes else [self._others]

    def standing(self, event: Event) -> Standing | None:
        """How the event's node stands now, or stood last; None where no node is concerned, or nothing is known of it any more."""
        if event.node_uuid is None:
            return None
        node = self._nodes.get(event.node_uuid)
        if node is not None:
            return Standing.of(node)
        noted = event.after or event.before
        if noted is None and event.type == "node.delete":  # stored before it was noted with every event
            return Standing(event.data.get("owner"), event.data.get("lessee"), event.data.get("shard"))
        return noted or self.store.standing(event.node_uuid)

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            candidates = [*self._others, *self._by_node.get(event.node_uuid or "", ())]
            if not candidates:
                continue
            frame, standing, known = Frame(event), None, False
            for group in candidates:
                if not group.takes_all:
                    if not known:
                        standing, known = self.standing(event), True
                    if not group.wanted.takes(event, standing):
                        continue
                group.matched.append(frame)
                self._touched[group] = None
        self._seen = events[-1].seq
        if self._due is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._at + self._pace - loop.time()
        if not self._touched or wait <= 0:
            self._hand_over()
        else:
            self._due = loop.call_later(wait, self._hand_over)

    def _hand_over(self) -> None:
        """Put what matched before the watchers."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self.told = self._seen
        if not self._touched:
            return
        self._at = asyncio.get_running_loop().time()
        touched, self._touched = self._touched, {}
        self._pace = _STORM_PACE if max(len(group.matched) for group in touched) > _STORM else _PACE
        for group in touched:
            chunk, group.matched = Chunk(group.matched), []
            for watcher in group.members:
                watcher.offer(chunk)
