"""Keyed locks: one asyncio lock for each name that somebody holds or waits for, and none for the others."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager


class KeyedLocks:
    """Mutual exclusion by name, first come first served. A name that nobody uses takes no memory."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}

    def holding(self, key: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock of `key` for the body. Not reentrant."""
        return _Holding(self._locks, key)

    def __len__(self) -> int:
        """How many names are in use."""
        return len(self._locks)


class _Lock(asyncio.Lock):
    """A lock that counts who uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.users = 0


class _Holding(AbstractAsyncContextManager[None]):
    __slots__ = ("_key", "_lock", "_locks")

    def __init__(self, locks: dict[str, _Lock], key: str) -> None:
        self._locks, self._key = locks, key
        self._lock: _Lock

    async def __aenter__(self) -> None:
        lock = self._locks.get(self._key)
        if lock is None:
            lock = self._locks[self._key] = _Lock()
        self._lock = lock
        lock.users += 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._lock.users -= 1
        if not self._lock.users:
            del self._locks[self._key]
