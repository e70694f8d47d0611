"""What keeps one BMC from being asked too much: a token bucket, and a circuit breaker for one that does not work.

Rules:

- No clock: `now` comes in with each call.
- The bucket delays, it never refuses. Repetitions of a datagram do not count.
- The breaker opens after some failures in a row and answers at once for a while, which doubles with each failed try.
  Background work is turned away the whole while. What an operator or a workflow asks waits for the end of the first, shortest
  one and is then tried: somebody who has just mended a BMC is not told that it does not answer.
- Other coordinates (a corrected password) are another matter: they are tried at once.
"""

from __future__ import annotations

from metald.drivers.ipmi import refusal
from metald.drivers.ipmi.info import BmcInfo
from metald.errors import DriverError


class Bucket:
    """Commands per second, with a second's worth at once (the generic cell rate algorithm: one number of state)."""

    __slots__ = ("_full", "_gap")

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate if rate > 0 else 0.0
        self._full = 0.0

    def take(self, now: float) -> float:
        """Take a token; returns the seconds to wait before it may be used."""
        if not self._gap:
            return 0.0
        self._full = max(self._full, now) + self._gap
        return max(0.0, self._full - now - 1.0)


class Breaker:
    """Failures in a row and what they lead to.

    Args:
        threshold: failures in a row that open it.
        pause: seconds that it is first open.
        longest: the most seconds.
    """

    __slots__ = ("_cause", "_info", "_longest", "_pause", "_threshold", "failures", "since", "until")

    def __init__(self, threshold: int, pause: float, longest: float) -> None:
        self._threshold, self._pause, self._longest = threshold, pause, max(pause, longest)
        self._info: BmcInfo | None = None
        self._cause: DriverError | None = None
        self.failures = 0
        self.since = 0.0
        self.until = 0.0

    def is_open(self, now: float) -> bool:
        """Whether background work is turned away now."""
        return self._cause is not None and now < self.until

    def check(self, info: BmcInfo, now: float) -> None:
        """Let a command of background work pass, or turn it away.

        Raises:
            DriverError: of the same kind as what opened the breaker; says when the BMC is tried again.
        """
        if self._cause is not None and self._info == info and now < self.until:
            raise refusal.left_alone(self._cause, self.failures, self.until - now)

    def pause(self, info: BmcInfo, now: float) -> float:
        """Seconds that what an operator or a workflow asks waits before it is tried."""
        if self._cause is None or self._info != info:
            return 0.0
        return max(0.0, min(self.until, self.since + self._pause) - now)

    def worked(self) -> None:
        """The BMC answered."""
        self.failures = 0
        self._cause = None

    def failed(self, info: BmcInfo, error: DriverError, now: float) -> None:
        """The BMC did not answer, or did not let us in."""
        if self._info != info:
            self._info, self.failures, self._cause = info, 0, None
        self.failures += 1
        if self.failures >= self._threshold:
            self._cause, self.since = error, now
            self.until = now + min(self._longest, self._pause * 2.0 ** min(self.failures - self._threshold, 30))
