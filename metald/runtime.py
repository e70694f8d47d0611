"""What the process asks of the kernel and of the interpreter, so that one loop can serve many.

When thousands of sockets are ready at once, asyncio serves every one of them before it looks at a timer or runs what they have
woken: the loop is late by as much as there are. Here it takes a few at a time, more of them while they are served in no time. The
kernel gives them in turns, so that none waits longer than before, and everything else goes on in between. What somebody looks at
and waits for, the API, comes before the crowd of machines: `prefer`.

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
    """An epoll object that tells of a few events at a time, in turns (epoll_wait(2): "round robin"), and of the preferred first."""

    def __init__(self, inner: select.epoll) -> None:
        self._inner = inner
        self._first = select.epoll()
        self._preferred: set[int] = set()
        self._events = _EVENTS
        self._told = 0.0
        self.fileno = inner.fileno
        inner.register(self._first.fileno(), select.EPOLLIN)

    def prefer(self, number: int, preferred: bool) -> None:
        """Have a file that is not registered now among the preferred, or no more."""
        (self._preferred.add if preferred else self._preferred.discard)(number)

    def _of(self, number: int) -> select.epoll:
        return self._first if number in self._preferred else self._inner

    def register(self, number: int, events: int) -> None:
        self._of(number).register(number, events)

    def modify(self, number: int, events: int) -> None:
        self._of(number).modify(number, events)

    def unregister(self, number: int) -> None:
        self._of(number).unregister(number)

    def close(self) -> None:
        self._first.close()
        self._inner.close()

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        if time.monotonic() - self._told < _SHORT_S:
            self._events = min(_MOST_EVENTS, 2 * self._events)
        else:
            self._events = max(_EVENTS, self._events // 2)
        few = min(most, self._events)
        # not fewer of these while rounds are long: those who wait for answers would share a turn with work that has none to wait for
        found = self._first.poll(0, _MOST_EVENTS) if self._preferred else []
        others = self._inner.poll(0 if found else timeout, few)
        nested = self._first.fileno()
        if any(number == nested for number, _ in others):
            found = found or self._first.poll(0, _MOST_EVENTS)
            others = [event for event in others if event[0] != nested]
        self._told = time.monotonic()
        return found + others


class _Selector(selectors.EpollSelector):
    def __init__(self) -> None:
        super().__init__()
        inner: Any = self._selector
        self._selector: Any = _Few(inner)

    def prefer(self, number: int, preferred: bool) -> None:
        key = self.get_map().get(number)
        if key is not None:
            self.unregister(number)
        self._selector.prefer(number, preferred)
        if key is not None:
            self.register(number, key.events, key.data)


def loop() -> asyncio.AbstractEventLoop:
    """A new event loop for `asyncio.Runner`."""
    return asyncio.SelectorEventLoop(_Selector())


def prefer(number: int, preferred: bool = True) -> None:
    """Serve a file before the others in each round of the running loop.

    Args:
        number: its descriptor.
        preferred: False: as the others again; to be said when it is closed, as its number is given to another then.
    """
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    if isinstance(selector, _Selector):
        selector.prefer(number, preferred)


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
