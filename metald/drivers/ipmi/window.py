"""The admission window: how many logins may be in flight at once.

Without it a fleet's logins time out in each other's queues: the datagrams wait in buffers while the retry timers run.
Rules:

- Urgent callers (workflows) go before background ones (power polling); each kind in order of arrival.
- A cancelled waiter never takes a place with it.
- Whoever waits has not started its own deadline yet.
- It adapts: `login_ended` tells whether a login's datagrams were repeated although the BMC had answered, which means that
  answers waited in a queue. When many were, the window shrinks at once; when few were, it grows back slowly.
- A login that nobody answers steps aside: dead BMCs must not fill the window for the length of their deadlines. A
  bounded number may, so that a network that is merely slow still finds a gate.
"""

from __future__ import annotations

import asyncio
from collections import deque

from metald.limits import Queue

_ASIDE = 4  # places aside, as a multiple of the window
_LEAST = 16
_EPOCH = 16  # least logins after which the limit is looked at
_CROWDED = 0.1  # share of logins in an epoch above which the window shrinks
_SHRINK = 0.7


class AdmissionWindow:
    """A counter with two queues. `limit` is the most places, and how many there are at first."""

    def __init__(self, limit: int) -> None:
        self.limit = self._most = limit
        self.queue = Queue("a login to its BMC", "drivers.ipmi.login_window")
        self._ended = self._crowded = 0
        self.taken = 0
        self.aside = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many callers wait for a place."""
        return sum(not future.done() for queue in (self._urgent, self._background) for future in queue)

    async def acquire(self, *, urgent: bool = True) -> None:
        """Take a place, waiting for one if need be."""
        if self.taken < self.limit and not self._urgent and (urgent or not self._background):
            self.taken += 1
            return
        future = asyncio.get_running_loop().create_future()
        queue = self._urgent if urgent else self._background
        queue.append(future)
        try:
            with self.queue.waiting():
                await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()  # the place was handed over in the moment of the cancellation
            elif future in queue:  # a release may have passed over it already
                queue.remove(future)
            raise

    def release(self) -> None:
        """Give the place back; the next waiter has it at once."""
        self.taken -= 1
        for queue in (self._urgent, self._background):
            while queue and self.taken < self.limit:
                future = queue.popleft()
                if not future.done():
                    self.taken += 1
                    future.set_result(None)

    def step_aside(self) -> bool:
        """Give the place to the next waiter and go on without; False when too many do already."""
        if self.aside >= _ASIDE * self.limit:
            return False
        self.aside += 1
        self.release()
        return True

    def login_ended(self, *, crowded: bool) -> None:
        """A login came to its end; `crowded` when it was held up by a queue and not by its BMC."""
        self._ended += 1
        self._crowded += crowded
        if self._ended < max(_EPOCH, self.limit):
            return
        if self._crowded > _CROWDED * self._ended:
            self.limit = max(min(_LEAST, self._most), int(self.limit * _SHRINK))
        elif self.limit < self._most:
            self.limit = min(self._most, self.limit + max(1, self.limit // 8))
        self._ended = self._crowded = 0

    def leave_aside(self) -> None:
        """The end of a login that stepped aside."""
        self.aside -= 1
