"""The recent exchange with one BMC, for whoever must find out why it does not do what it should.

Rules:

- Bounded, and cheap to write: text is made only when somebody reads.
- What carries a secret (passwords, keys, community strings) and what nobody but the vendor understands is kept by its
  length alone, from the moment it is recorded.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

_HISTORY = 24
_SHOWN_BYTES = 48

_SECRET: Final = frozenset(
    (
        (0x06, 0x47),  # Set User Password
        (0x06, 0x56),  # Set Channel Security Keys
        (0x0C, 0x01),  # Set LAN Configuration Parameters: community string
        (0x0C, 0x02),  # Get LAN Configuration Parameters
        (0x0C, 0x10),  # Set Serial/Modem Configuration: dial-up passwords
        (0x0C, 0x11),
    )
)
_VENDOR_NETFN = 0x2C


class Moment(NamedTuple):
    """One entry: the loop's time, what happened, a detail, and for commands the bytes both ways."""

    time: float
    what: str
    detail: str = ""
    command: tuple[int, int] | None = None
    """netfn and command."""
    sent: bytes | int = b""
    """The request's data; its length alone where it may be secret."""
    code: int | None = None
    """The completion code."""
    received: bytes | int = b""

    def text(self) -> str:
        """In one line."""
        if self.command is None:
            return f"{self.what} {self.detail}".strip()
        sent, received = _hex(self.sent), _hex(self.received)
        outcome = "no answer" if self.code is None else f"{self.code:02x} {received}".strip()
        return f"{self.what} {self.command[0]:02x} {self.command[1]:02x} {sent}".strip() + f" -> {outcome}"


class Recorder:
    """The last moments of one BMC."""

    __slots__ = ("moments",)

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=_HISTORY)

    def note(self, time: float, what: str, detail: str = "") -> None:
        """Add what is no command."""
        self.moments.append(Moment(time, what, detail))

    def command(self, time: float, netfn: int, command: int, sent: bytes, code: int | None, received: bytes = b"") -> None:
        """Add a command and its answer; `code` None when there was none."""
        if (netfn, command) in _SECRET or netfn >= _VENDOR_NETFN:
            self.moments.append(Moment(time, "command", "", (netfn, command), len(sent), code, len(received)))
        else:
            self.moments.append(Moment(time, "command", "", (netfn, command), sent, code, received))

    def lines(self, most: int) -> tuple[str, ...]:
        """The last entries as lines, each with the seconds since the first of them."""
        last = list(self.moments)[-most:]
        return tuple(f"+{moment.time - last[0].time:.3f} {moment.text()}" for moment in last)

    def export(self, now: float) -> list[dict[str, Any]]:
        """Every entry as JSON values, oldest first; `now` is the loop's time."""
        clock = datetime.now(UTC)
        return [
            {"at": (clock - timedelta(seconds=now - moment.time)).isoformat(timespec="milliseconds"), "what": moment.text()}
            for moment in self.moments
        ]


def _hex(data: bytes | int) -> str:
    if isinstance(data, int):
        return f"({data} bytes not kept)" if data else ""
    more = f" (and {len(data) - _SHOWN_BYTES} bytes)" if len(data) > _SHOWN_BYTES else ""
    return data[:_SHOWN_BYTES].hex(" ") + more
