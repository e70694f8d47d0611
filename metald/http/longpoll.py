"""Long polls: requests that are answered when something changes.

Rules: a request that waits costs a future and an entry by its node, nothing else; it ends when its row changes, when its time
is over, when its client leaves, or when the daemon stops. Only so many wait at once: one more is answered at once, which
`Prefer` allows (RFC 7240 section 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from metald.store.watches import Watch, Watches

MOST = 10_000
"""Requests that may wait at once."""
_SWEEP = 1.0


class LongPolls:
    """Everybody who waits.

    Args:
        watches: of the store.
    """

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._waiting: dict[Watch, Callable[[], bool]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def open(self) -> bool:
        """Whether one more may wait."""
        return not self._closed and len(self._waiting) < MOST

    async def changed(self, uuid: str, timeout: float, gone: Callable[[], bool]) -> bool:
        """Wait for a row to change.

        Args:
            uuid: which row.
            timeout: most seconds.
            gone: whether the client has left.

        Returns:
            Whether it is worth looking again: false when the time is over, the client has left or the daemon stops.
        """
        loop = asyncio.get_running_loop()
        watch: Watch = loop.create_future()
        self._waiting[watch] = gone
        if self._sweeper is None:
            self._sweeper = loop.call_later(_SWEEP, self._sweep)
        try:
            ended = await self._watches.changed(uuid, timeout, watch)
        finally:
            self._waiting.pop(watch, None)
        return ended and not watch.cancelled() and not self._closed

    def _sweep(self) -> None:
        """Let go of those whose clients have left: nobody tells a handler of that."""
        self._sweeper = None
        for watch, gone in self._waiting.items():
            if gone() and not watch.done():
                watch.cancel()
        if self._waiting:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def close(self) -> None:
        """The daemon stops: everybody is answered now."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for watch in self._waiting:
            watch.cancel()
