"""What the process asks of the kernel and of the interpreter, so that one loop can serve many.

When thousands of sockets are ready at once, asyncio serves every one of them before it looks at a timer or runs what they have
woken: the loop is late by as much as there are. Here it takes a few at a time, more of them while they are served in no time. The
kernel gives them in turns, so that none waits longer than before, and everything else goes on in between.

A garbage collection holds the loop while it looks at objects, so each must have few to look at. The state, which has no cycles,
is hidden from it (`gc=False` in the model), and what is imported and loaded at the start is set aside. Young objects are looked at
often and few at a time; what has grown old and become garbage is left to `tidy`, and is little: what comes by the thousand, such
as SSH connections, lets go of itself when it ends.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import select
import selectors
import sys
import time
from typing import Any

_YOUNG = 2_000
"""Objects made and kept between two collections of the youngest; the older ones of them are looked at every fifth time."""
_OLDER = 4
_FULL = 1_000_000
"""So many collections of the older ones never come between two calls of `tidy`."""
_SWITCH_S = 0.001
"""The longest that a thread, such as the database's, keeps the loop from running Python."""
_TIDY_S = 20.0
_TIDY_SHARE = 0.002
"""The most of its time that the loop is held by full collections, which look at everything that is in flight."""
_EVENTS = 8
"""Sockets that are served in one round of the loop."""
_MOST_EVENTS = 64
"""The same while rounds are short."""
_SHORT_S = 0.004
"""A round that is shorter lets the next one serve twice as many, one that is longer half as many."""


class _Few:
    """An epoll object that tells of a few events at a time, in turns (epoll_wait(2): "round robin")."""

    def __init__(self, inner: select.epoll) -> None:
        self._inner = inner
        self._events = _EVENTS
        self._told = 0.0
        self.register, self.modify, self.unregister = inner.register, inner.modify, inner.unregister
        self.close, self.fileno = inner.close, inner.fileno

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        if time.monotonic() - self._told < _SHORT_S:
            self._events = min(_MOST_EVENTS, 2 * self._events)
        else:
            self._events = max(_EVENTS, self._events // 2)
        found = self._inner.poll(timeout, min(most, self._events))
        self._told = time.monotonic()
        return found


class _Selector(selectors.EpollSelector):
    def __init__(self) -> None:
        super().__init__()
        inner: Any = self._selector
        self._selector: Any = _Few(inner)


def loop() -> asyncio.AbstractEventLoop:
    """A new event loop for `asyncio.Runner`."""
    return asyncio.SelectorEventLoop(_Selector())


def prepare() -> None:
    """Take as many open files as allowed, and set the interpreter's collections and threads up for a loop."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(_YOUNG, _OLDER, _FULL)
    sys.setswitchinterval(_SWITCH_S)


async def tidy() -> None:
    """Collect what has become garbage in a cycle, three times a minute or less often where that takes long; runs until it is cancelled."""
    pause = _TIDY_S
    while True:
        await asyncio.sleep(pause)
        begun = time.perf_counter()
        gc.collect()
        pause = max(_TIDY_S, (time.perf_counter() - begun) / _TIDY_SHARE)
