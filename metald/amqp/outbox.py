"""Outbox: the events after a place, in sequence and without a gap, live from memory or read from the store.

Rules: nothing is skipped in silence. Where events have been purged before they were read, an `events.dropped` event says
which. What waits in memory is bounded; a reader that falls behind reads from the store until it has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from metald.model import Event
from metald.model.event import dropped
from metald.store.store import Store

_KEPT = 20_000
_POLL = 1.0
"""Seconds between two looks for events that other daemons wrote."""


class Outbox:
    """Reads on from `seq`. Close it.

    Args:
        store: whose events.
        seq: the number of the last event that needs not be read.
    """

    def __init__(self, store: Store, seq: int) -> None:
        self.seq = seq
        self._store = store
        self._live: deque[Event] = deque(maxlen=_KEPT)
        self._news = asyncio.Event()
        self._told: deque[tuple[int, int, float]] = deque(maxlen=_KEPT)  # of what was told at once: first, last, when
        self.close: Callable[[], None] = store.subscribe(self._tell)

    def _tell(self, events: Sequence[Event]) -> None:
        self._live.extend(events)
        self._told.append((events[0].seq, events[-1].seq, asyncio.get_running_loop().time()))
        self._news.set()

    def told_until(self, seq: int) -> Iterator[tuple[float, int]]:
        """When events were told of up to this one, by the loop's clock, and how many; each once."""
        told = self._told
        while told and told[0][1] <= seq:
            first, last, when = told.popleft()
            yield when, last - first + 1

    async def next(self, most: int) -> list[Event]:
        """The next events, at least one.

        Raises:
            Unavailable: the database cannot be used now.
        """
        while True:
            self._news.clear()
            found = self._from_memory(most) or await self._from_store(most)
            if found:
                self.seq = found[-1].seq
                return found
            try:
                async with asyncio.timeout(_POLL if self._store.shared else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _from_memory(self, most: int) -> list[Event]:
        live = self._live
        while live and live[0].seq <= self.seq:
            live.popleft()
        if not live or live[0].seq != self.seq + 1:
            return []
        run = list(islice(live, most))
        # numbers grow, so the run has no gap if its ends are as far apart as it is long
        if run[-1].seq != self.seq + len(run):
            run = [event for i, event in enumerate(run, self.seq + 1) if event.seq == i]
        for _ in run:
            live.popleft()
        return run

    async def _from_store(self, most: int) -> list[Event]:
        if not (self._store.shared or self._live or self._store.last_seq > self.seq):
            return []
        found = await self._store.events(since=self.seq, limit=most)
        if found and found[0].seq > self.seq + 1:
            found.insert(0, dropped(self.seq + 1, found[0].seq - 1))
        return found
