"""How long a BMC is waited for before it is asked again.

Rules: no clock, `now` comes in; waits have jitter, so that a fleet does not speak in chorus; a BMC that is slow, and not
forgetful, is given the time that it was seen to take.
"""

from __future__ import annotations

import random
from typing import Final

Patience = tuple[float, ...]

PATIENCE: Final[Patience] = (0.5, 0.7, 0.9)
"""Seconds to wait for an answer before each repetition; after the last the session is lost. About 2.1 s in all, so
that a BMC which forgot its sessions is noticed and entered again within 3 s."""

PATIENT: Final[Patience] = (1.5, 3.0, 6.0)
"""The same after a session was lost and opened anew: a BMC that is slow, not forgetful, gets time to answer."""

LOGIN_PATIENCE: Final[Patience] = (0.5, 0.7, 1.0, 1.5, 2.5)
"""Seconds before each repetition during a login; the last goes on until the login's deadline. A login that had to begin
anew is a step more patient: some BMCs take a second for the cryptography alone."""

SLOT_PAUSE: Final = 1.0
"""Seconds until a BMC without a free session slot is asked again."""

_SLOWNESS: Final = 1.5
_SLOWEST: Final = 3.0
_JITTER: Final = 0.2


class Pace:
    """Of one session.

    Args:
        seen: seconds that the BMC took for an answer in an earlier session.
    """

    __slots__ = ("_asked", "_rounds", "seen", "tries")

    def __init__(self, seen: float = 0.0) -> None:
        self.seen = seen
        """Seconds that this BMC takes for an answer, at most; what was lost on the way counts as slowness, too."""
        self.tries = 0
        """How often what is under way was sent again."""
        self._asked = 0.0
        self._rounds = 0

    @property
    def slow(self) -> bool:
        """Whether the BMC, or the way to it, is known to take longer than the first step of patience."""
        return _SLOWNESS * self.seen > PATIENCE[0]

    def asked(self, now: float) -> None:
        """Something was sent for the first time."""
        self._asked = now

    def answered(self, now: float) -> None:
        """It was answered."""
        self.tries = 0
        took = min(now - self._asked, _SLOWEST)
        self.seen = max(took, (self.seen + took) / 2)

    def begin_again(self) -> None:
        """The login begins anew, because an answer is missing."""
        self._rounds += 1

    def wait(self, steps: Patience, *, login: bool) -> float:
        """Seconds until what was just sent is sent again."""
        step = steps[min(self.tries + (self._rounds if login else 0), len(steps) - 1)]
        return max(step, _SLOWNESS * self.seen) * (1 + _JITTER * random.random())  # noqa: S311
