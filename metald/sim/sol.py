"""Serial over LAN as a BMC does it (IPMI 2.0 section 15): the machine's serial port as numbered, acknowledged packets.

Rules:

- No input or output, no clock. `feed` takes what the remote console sent, `write` what the machine printed, `take` gives
  the payloads that are to be sent now, and `due` says when `take` is wanted again.
- One packet is under way at a time, repeated until it is acknowledged (section 15.9); after `_TRIES` its text is dropped, so
  that a console that went away does not stop the machine.
- What the machine prints while the packet is under way is kept up to `_MOST` bytes; the oldest goes first.
"""

from __future__ import annotations

from typing import Final

SIZE: Final = 200
"""Most characters in one packet; told in the answer to Activate Payload."""

_RETRY = 0.5
_TRIES = 6
_MOST = 64 << 10
_NACK, _BREAK = 0x40, 0x10


class Sol:
    """One activated SOL payload.

    Args:
        sid: the session that it belongs to.
    """

    __slots__ = ("_acks", "_pending", "_seen", "_sent", "_sequence", "_tries", "breaks", "due", "sid")

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.breaks = 0
        self.due: float | None = None
        """When `take` has something to repeat; None when nothing is under way."""
        self._pending = bytearray()
        self._sent = b""
        self._sequence = 0
        self._tries = 0
        self._seen = 0
        self._acks: list[bytes] = []

    def feed(self, payload: bytes) -> bytes:
        """Take a packet of the remote console.

        Returns:
            The characters that were typed, each once.
        """
        if len(payload) < 4:
            return b""
        sequence, acknowledged, accepted, operation = payload[0] & 0x0F, payload[1] & 0x0F, payload[2], payload[3]
        if self._sent and acknowledged == self._sequence:
            self._acknowledged(accepted, nack=bool(operation & _NACK))
        if not sequence:
            return b""
        typed = payload[4:]
        self._acks.append(bytes((0, sequence, len(typed), 0)))
        if sequence == self._seen:  # repeated, because our acknowledgement was lost
            return b""
        self._seen = sequence
        self.breaks += bool(operation & _BREAK)
        return typed

    def _acknowledged(self, accepted: int, *, nack: bool) -> None:
        left = self._sent[accepted:] if nack or accepted < len(self._sent) else b""
        self._pending[:0] = left
        self._sent, self.due = b"", None

    def write(self, text: bytes) -> None:
        """The machine printed something."""
        self._pending += text
        if len(self._pending) > _MOST:
            del self._pending[: len(self._pending) - _MOST]

    def take(self, now: float) -> list[bytes]:
        """The payloads to send at this moment."""
        out, self._acks = self._acks, []
        if self._sent and self.due is not None and now >= self.due:
            self._tries += 1
            if self._tries >= _TRIES:
                self._sent, self.due = b"", None
            else:
                out.append(self._packet(now))
        if not self._sent and self._pending:
            self._sent = bytes(self._pending[:SIZE])
            del self._pending[:SIZE]
            self._sequence = self._sequence % 15 + 1
            self._tries = 0
            out.append(self._packet(now))
        return out

    def _packet(self, now: float) -> bytes:
        self.due = now + _RETRY
        return bytes((self._sequence, 0, 0, 0)) + self._sent


def activation(port: int) -> bytes:
    """What follows the completion code of Activate Payload (section 24.1): sizes of packets each way, the UDP port, no VLAN."""
    size = (SIZE + 4).to_bytes(2, "little")
    return bytes(4) + size + size + port.to_bytes(2, "little") + b"\xff\xff"


CONFIGURATION: Final = {
    0: b"\x00",
    1: b"\x01",
    2: b"\x82",
    3: b"\x0c\x60",
    4: b"\x07\x32",
    5: b"\x0a",
    6: b"\x0a",
    7: b"\x01",
}
"""SOL configuration parameters (table 26-5): enabled, encryption, accumulate interval, retry, bit rate 115200, channel 1."""
