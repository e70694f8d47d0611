"""Losses: what reaches nobody is counted by its reason and told of in the log, in few lines however many there are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

_log = logging.getLogger(__name__)

REASONS = ("addresses", "forbidden", "gone", "refused", "unsendable")
"""More places asked than are told; metald may not send replies; no such queue; the queue takes none; AMQP cannot say it."""
_QUIET = 10.0
"""Seconds in which the log has one line for each reason."""


class Losses:
    """How much was lost, and why."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        """How many for each reason."""
        self._untold: dict[str, int] = {}

    def add(self, reason: str, text: str) -> None:
        """Something is lost.

        Args:
            reason: in a word, for metrics.
            text: what, and why, for the log.
        """
        self.counts[reason] += 1
        if reason in self._untold:
            self._untold[reason] += 1
            return
        _log.warning("%s", text)
        self._be_quiet(reason)

    def _be_quiet(self, reason: str) -> None:
        self._untold[reason] = 0
        asyncio.get_running_loop().call_later(_QUIET, self._tell, reason)

    def _tell(self, reason: str) -> None:
        if more := self._untold.pop(reason):
            _log.warning("%d more answers or dead letters were lost for the same reason (%s)", more, reason)
            self._be_quiet(reason)
