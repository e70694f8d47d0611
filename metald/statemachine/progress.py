"""How far running steps have come: for readers at once, as events now and then.

Rules: showing progress is free for the step. What is shown lives in memory; of it at most one event for each node goes
out in an interval, and what one write cannot take now is no loss. When a step has ended, none of its progress is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from metald.errors import MetaldError
from metald.model import Event
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)


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
        self._something = asyncio.Event()

    def of(self, node_uuid: str) -> dict[str, Any]:
        """What is shown of a node; empty when nothing runs."""
        return dict(self._shown.get(node_uuid, ()))

    def show(self, node_uuid: str, fields: dict[str, Any]) -> None:
        """Add to what is shown."""
        self._shown.setdefault(node_uuid, {}).update(fields)
        moment = self._clock()
        if moment - self._told.get(node_uuid, -self._interval) >= self._interval:
            self._told[node_uuid] = moment
            self._fresh.add(node_uuid)
            self._something.set()

    def over(self, node_uuid: str) -> None:
        """The step has ended."""
        self._shown.pop(node_uuid, None)
        self._told.pop(node_uuid, None)
        self._fresh.discard(node_uuid)

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            await self._something.wait()
            self._something.clear()
            events = [Event(type="node.progress", node_uuid=uuid, data=self.of(uuid)) for uuid in self._fresh]
            self._fresh.clear()
            try:
                await self._store.commit(Change(events=events))
            except MetaldError as error:
                _log.debug("progress of %d nodes was not told: %s", len(events), error)
