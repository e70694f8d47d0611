"""All deadlines of the engine in one heap behind one timer of the loop.

Setting, moving and dropping a deadline costs no task and no scan. Keys are owned by the caller; a key has at most one
deadline. Times are `loop.time()` seconds.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


class Timers:
    """Calls `expired(key)` once each key's deadline has passed, on the loop, never from inside `set`."""

    def __init__(self, expired: Callable[[str], None]) -> None:
        self._expired = expired
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, delay: float) -> None:
        """Have `key` expire in `delay` seconds, instead of any earlier deadline of it."""
        due = asyncio.get_running_loop().time() + max(0.0, delay)
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        self._arm()

    def drop(self, key: str) -> None:
        """Forget the deadline of `key`, if it has one. Its heap entry is skipped when its time comes."""
        self._due.pop(key, None)

    def close(self) -> None:
        """Forget all deadlines."""
        self._due.clear()
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        first = self._heap[0][0]
        if self._handle is not None:
            if self._handle.when() <= first:
                return
            self._handle.cancel()
        self._handle = asyncio.get_running_loop().call_at(first, self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self._expired(key)
        if self._heap:
            self._arm()
