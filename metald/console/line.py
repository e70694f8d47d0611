"""The line to one machine's console, as a driver provides it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class LineEnded(Exception):
    """The line is gone; the text says why."""


class Line(Protocol):
    """An open console. One task reads; any may write."""

    async def read(self) -> bytes:
        """Wait for what the machine prints; never empty.

        Raises:
            LineEnded: there will be no more.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Type. Waits while the machine does not take it; what is typed into a line that has ended is lost."""
        ...

    def send_break(self) -> None:
        """Send a serial break."""
        ...

    async def close(self) -> None:
        """Give the line back. May be called twice."""
        ...


Dial = Callable[[], Awaitable[Line]]
"""Opens the line; raises a `MetaldError` with the cause when it cannot."""
