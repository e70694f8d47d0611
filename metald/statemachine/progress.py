"""How far running steps have come: for readers at once, as events now and then.

Rules: showing progress is free for the step. What is shown lives in memory; of it at most one event for each node goes
out in an interval, with what is shown then, and what one write cannot take now is no loss. When a step has ended, none of
its progress is told.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

from metald.errors import MetaldError
from metald.model import Event
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)

_KEPT = 1000
"""How many times of nodes that show nothing are remembered before those that say nothing any more are let go."""


class Progress:
    """What each node's running step shows of itself.

    Args:
        store: takes the events.
        interval: least seconds between two events of one node.
        clock: seconds that only grow.
    """

    def __init__(self, store: Store, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._interval = interval
        self._clock = clock
        self._shown: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}
        self._fresh: set[str] = set()
        """Nodes with something that was not told, for each of which there is a time in the heap."""
        self._due: list[tuple[float, str]] = []
        self._something = asyncio.Event()

    def of(self, node_uuid: str) -> dict[str, Any]:
        """What is shown of a node; empty when nothing runs."""
        return dict(self._shown.get(node_uuid, ()))

    def show(self, node_uuid: str, fields: dict[str, Any]) -> None:
        """Add to what is shown."""
        self._shown.setdefault(node_uuid, {}).update(fields)
        if node_uuid not in self._fresh:
            self._fresh.add(node_uuid)
            now = self._clock()
            heapq.heappush(self._due, (max(now, self._told.get(node_uuid, now - self._interval) + self._interval), node_uuid))
            self._something.set()

    def over(self, node_uuid: str) -> None:
        """The step has ended."""
        self._shown.pop(node_uuid, None)

    def due(self) -> list[Event]:
        """What is to be told now."""
        now, events = self._clock(), []
        while self._due and self._due[0][0] <= now:
            uuid = heapq.heappop(self._due)[1]
            self._fresh.discard(uuid)
            if uuid in self._shown:
                self._told[uuid] = now
                events.append(Event(type="node.progress", node_uuid=uuid, data=self.of(uuid)))
        if len(self._told) > len(self._shown) + _KEPT:
            self._told = {uuid: at for uuid, at in self._told.items() if now - at < self._interval}
        return events

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            events = self.due()
            if events:
                try:
                    await self._store.commit(Change(events=events))
                except MetaldError as error:
                    _log.debug("progress of %d nodes was not told: %s", len(events), error)
                continue
            self._something.clear()
            pause = self._due[0][0] - self._clock() if self._due else None
            try:
                async with asyncio.timeout(pause):
                    await self._something.wait()
            except TimeoutError:
                continue
