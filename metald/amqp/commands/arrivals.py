"""Arrivals: keeps commands in the order in which their messages came, although each becomes durable by itself.

Rules: a message's commands are handed on when every message before it is settled: durable, known, put aside, or given up
with its connection. So a command that had to be written twice, as the store was away, is not overtaken by the next one.
What is being written when its connection ends is handed on when it is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from metald.model.command import Command


class Arrival:
    """One message's place.

    Args:
        arrivals: the order that it is in.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._being_written = False
        self.commands: Sequence[Command] = ()
        self.settled = False

    def settle(self, commands: Sequence[Command]) -> None:
        """The message became these commands."""
        self.commands, self.settled = commands, True
        self._arrivals.hand_on()

    def leave(self) -> None:
        """Nobody brings the message any further; if it is being written, that decides."""
        if not (self.settled or self._being_written):
            self.settle(())

    def begin_writing(self) -> None:
        """Its commands are being written from now on, to the end whoever leaves: `settle`, or in vain."""
        self._being_written = True

    def end_writing(self) -> None:
        """They are written, or were written in vain."""
        self._being_written = False
        if self._arrivals.closed:
            self.leave()


class Arrivals:
    """The messages of one connection, in their order.

    Args:
        take: is given each command in its turn.
    """

    def __init__(self, take: Callable[[Command], None]) -> None:
        self._take = take
        self._open: deque[Arrival] = deque()
        self.closed = False
        """Whether the connection has ended."""

    def begin(self) -> Arrival:
        """A message has come."""
        arrival = Arrival(self)
        self._open.append(arrival)
        return arrival

    def close(self) -> None:
        """The connection has ended: what is not written, and is not being written, comes again by another one."""
        self.closed = True
        for arrival in list(self._open):
            arrival.leave()

    def hand_on(self) -> None:
        """Hand on what has nothing unsettled before it."""
        while self._open and self._open[0].settled:
            for command in self._open.popleft().commands:
                self._take(command)
