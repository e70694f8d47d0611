"""Pace: whether the wall clock can be believed where things are let go by their age.

Rule: a wall clock that did not go as fast as the steady one since it was looked at last has jumped: a wrong date, a machine that
slept. For an hour nothing is let go then, so that a date that is soon put right again takes no history with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_SLACK = 30.0
"""Seconds that the clocks may differ between two looks: clocks are put right a little all the time."""
_DOUBT = 3600.0


class Pace:
    """Compares two clocks.

    Args:
        wall: seconds since 1970.
        steady: seconds that only grow, and never jump.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()
        self._doubted = steady() - _DOUBT

    def believed(self) -> bool:
        """Whether the wall clock has not jumped for a while."""
        steady = self._steady()
        ahead = self._wall() - steady
        jump, self._ahead = ahead - self._ahead, ahead
        if abs(jump) > _SLACK:
            self._doubted = steady
            _log.warning("the clock jumped by %.0f s; nothing is let go by its age for %.0f minutes", jump, _DOUBT / 60)
        return steady - self._doubted >= _DOUBT
