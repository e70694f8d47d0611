"""A ride: one more row in whatever change a piece of work commits first.

Who must know for certain whether something was done (a command that may come twice) writes that down in the very
transaction that does it, without the doors in between having to know of it. Rules: one row joins one change; a change
that fails leaves the seat free for the next try; work that the ride has started, but that goes on by itself, carries nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from metald.model import Resource
from metald.store.changes import Change

_PRESENT: ContextVar[Ride | None] = ContextVar("ride", default=None)


class Ride:
    """One row on its way.

    Args:
        row: makes the row, from the change that it goes with.
    """

    def __init__(self, row: Callable[[Change], Resource]) -> None:
        self._row = row
        self._aboard = False
        self.done: Resource | None = None
        """The row as it was stored; None as long as it was not."""

    def board(self, change: Change) -> Change | None:
        """The change with the row, unless the row has gone already or is on its way."""
        if self._aboard or self.done is not None:
            return None
        self._aboard = True
        return Change([*change.save, self._row(change)], change.delete, change.journal, change.events)

    def arrive(self, row: Resource | None) -> None:
        """Note what became of the change: the stored row, or None when the change failed."""
        self._aboard = False
        self.done = row

    def end(self) -> None:
        """Let nothing board any more."""
        self._aboard = True


@contextlib.contextmanager
def riding(row: Callable[[Change], Resource]) -> Iterator[Ride]:
    """Have the row join the first change that is committed inside."""
    ride = Ride(row)
    token = _PRESENT.set(ride)
    try:
        yield ride
    finally:
        ride.end()
        _PRESENT.reset(token)


def present() -> Ride | None:
    """The ride that the running task is on."""
    return _PRESENT.get()
