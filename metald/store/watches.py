"""Watches: who waits for one row to change.

Rules: thousands may wait at once, and a change costs only those who wait for its rows; nothing is missed between a look at
memory and the wait that follows it without an `await` between them; whoever leaves takes no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

Watch = asyncio.Future[None]


class Watches:
    """The waiters of each row, by its UUID."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Watch]] = {}

    async def changed(self, uuid: str, timeout: float, watch: Watch | None = None) -> bool:
        """Wait until the row is written or deleted.

        Args:
            uuid: which row.
            timeout: most seconds.
            watch: a future through which others can end the wait.

        Returns:
            Whether it ended before its time: because of a change, or because somebody ended it.
        """
        waiter: Watch = asyncio.get_running_loop().create_future() if watch is None else watch
        waiters = self._waiting.setdefault(uuid, set())
        waiters.add(waiter)
        try:
            done, _ = await asyncio.wait((waiter,), timeout=timeout)
            return bool(done)
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiting.get(uuid) is waiters:
                del self._waiting[uuid]

    def tell(self, uuids: Iterable[str]) -> None:
        """These rows have changed."""
        if not self._waiting:
            return
        for uuid in uuids:
            for waiter in self._waiting.pop(uuid, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))
