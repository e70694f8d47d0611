"""A lane: the commands of one node, of which one is being carried out and the others wait; and how many wait where nothing moves.

Rules: a lane stands while the command that it is at waits for hardware, or for a node that something else drives. What stands takes
no room of others, and has a bound of its own, all lanes together: so nothing that is wrong with one machine keeps commands of others
in the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from metald.model.command import Command


class Lane:
    """The commands of one node."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.waiting: deque[Command] = deque()
        self.overtaking: deque[Command] = deque()
        self.wake = asyncio.Event()
        self.count = 0
        """How many have come and are not done."""
        self.stands = False


class Standing:
    """Counts the commands in lanes that stand.

    Args:
        changed: is called when there are more of them, which leaves room for others.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.count = 0

    def come(self, lane: Lane) -> None:
        """A command has come into a lane."""
        lane.count += 1
        self.count += lane.stands

    def done(self, lane: Lane) -> None:
        """A command of a lane is done."""
        lane.count -= 1
        self.count -= lane.stands

    @contextlib.contextmanager
    def inside(self, lane: Lane) -> Iterator[None]:
        """The lane stands inside."""
        if lane.stands:
            yield
            return
        lane.stands = True
        self.count += lane.count
        self._changed()
        try:
            yield
        finally:
            lane.stands = False
            self.count -= lane.count
