"""Limits on resources, and who waits for them.

Nothing is refused because much is asked at once: it waits at a gate, in the order it came, and everybody can see for what
and since when. Whoever passes is counted until it leaves.

A task says on whose behalf it works with `on_behalf_of`; what it waits for is then found by that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

_whose: ContextVar[str] = ContextVar("whose", default="")


@contextlib.contextmanager
def on_behalf_of(uuid: str) -> Iterator[None]:
    """What this task does from here on is done for a node."""
    token = _whose.set(uuid)
    try:
        yield
    finally:
        _whose.reset(token)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody waits."""

    what: str
    """The resource, in words."""
    setting: str
    """The setting that limits it."""
    since: datetime
    ahead: int
    """How many wait that came before."""


class Queue:
    """Those who wait for one resource.

    Args:
        what: the resource, in words.
        setting: the setting that limits it.
    """

    def __init__(self, what: str, setting: str) -> None:
        self.what = what
        self.setting = setting
        self.passed = 0
        """How many have waited and passed or left."""
        self.waited = 0.0
        """Seconds that they waited, in all."""
        self._here: dict[int, tuple[str, float]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._here)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The caller waits inside."""
        ticket = self.enter()
        try:
            yield
        finally:
            self.leave(ticket)

    def enter(self) -> int:
        """Somebody waits from now on; returns what to give to `leave`."""
        self._next += 1
        self._here[self._next] = (_whose.get(), time.time())
        return self._next

    def leave(self, ticket: int) -> None:
        """It has waited long enough, or gives up."""
        _, begun = self._here.pop(ticket)
        self.passed += 1
        self.waited += max(0.0, time.time() - begun)

    def of(self, uuid: str) -> Waiting | None:
        """What the node has been waiting for longest here; None when it does not wait."""
        for ahead, (whose, begun) in enumerate(self._here.values()):
            if whose == uuid:
                return Waiting(self.what, self.setting, datetime.fromtimestamp(begun, UTC), ahead)
        return None

    def longest(self) -> float:
        """Seconds that the first in the queue has waited."""
        return max(0.0, time.time() - next(iter(self._here.values()))[1]) if self._here else 0.0


class Gate:
    """Lets so many in at once; an async context manager. The others wait in the order they came.

    Args:
        limit: how many.
        what: the resource, in words.
        setting: the setting that says how many.
    """

    def __init__(self, limit: int, what: str, setting: str) -> None:
        self.limit = limit
        self.queue = Queue(what, setting)
        self._places = asyncio.Semaphore(limit)
        self.inside = 0

    @property
    def full(self) -> bool:
        """Whether the next one would wait."""
        return self._places.locked()

    async def __aenter__(self) -> None:
        if self.full:
            with self.queue.waiting():
                await self._places.acquire()
        else:
            await self._places.acquire()
        self.inside += 1

    async def __aexit__(self, *_: object) -> None:
        self.inside -= 1
        self._places.release()


class Bandwidth:
    """Bytes a second that many share; each waits as long as what it takes is ahead of the clock.

    Args:
        rate: bytes a second; 0 does not limit.
        what: what flows, in words.
        setting: the setting that says how much.
        burst: seconds' worth of bytes that may go at once after a pause.
    """

    def __init__(self, rate: int, what: str, setting: str, burst: float = 0.1) -> None:
        self.rate = rate
        self.queue = Queue(what, setting)
        self.bytes = 0
        self._burst = burst
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Return when `size` more bytes may flow. Who takes less at a time shares more evenly."""
        self.bytes += size
        if not self.rate:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - self._burst) + size / self.rate
        if self._free_at > now:
            with self.queue.waiting():
                await asyncio.sleep(self._free_at - now)


class Limits:
    """Every queue there is.

    Args:
        queues: those of the parts that limit something.
    """

    def __init__(self, queues: Iterable[Queue] = ()) -> None:
        self.queues = list(queues)

    def of(self, uuid: str) -> list[Waiting]:
        """What a node waits for."""
        return [found for queue in self.queues if (found := queue.of(uuid)) is not None]
