"""What a session with a BMC asks of the world, and how patient it is."""

from __future__ import annotations

from typing import Final, Protocol

from metald.errors import DriverError

Patience = tuple[float, ...]

PATIENCE: Final[Patience] = (0.5, 0.7, 0.9)
"""Seconds to wait for an answer before each repetition; after the last the session is lost. About 2.1 s in all, so
that a BMC which forgot its sessions is noticed and entered again within 3 s."""

PATIENT: Final[Patience] = (1.5, 3.0, 6.0)
"""The same after a session was lost and opened anew: a BMC that is slow, not forgetful, gets time to answer."""

LOGIN_PATIENCE: Final[Patience] = (0.5, 0.7, 1.0, 1.5)
"""Seconds before each repetition during a login; the last goes on until the login's deadline."""

SLOT_PAUSE: Final = 1.0
"""Seconds until a BMC without a free session slot is asked again."""


class Wire(Protocol):
    """What a session asks of the world and tells it."""

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
