"""What a session with a BMC asks of the world."""

from __future__ import annotations

from typing import Protocol

from metald.errors import DriverError


class Wire(Protocol):
    """What a session asks of the world and tells it."""

    def time(self) -> float:
        """Seconds on a clock that never goes back."""

    def transmit(self, data: bytes | bytearray) -> None:
        """Send a datagram to the BMC."""

    def arm(self, seconds: float) -> None:
        """Call `expired` after `seconds`, instead of any earlier arrangement."""

    def logged_in(self) -> None:
        """The session stands."""

    def login_failed(self, error: DriverError) -> None:
        """The BMC refused; the session is of no more use."""

    def answered(self, code: int, data: bytes) -> None:
        """The request in flight has its answer."""

    def lost(self) -> None:
        """The request in flight was not answered however often it was sent."""
