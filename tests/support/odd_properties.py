"""Properties that other programs put into messages and that pamqp neither reads nor writes: raw bytes for its encoder."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

from pamqp.commands import Basic


class RawText(str):
    """A text that is sent as other bytes than UTF-8.

    Args:
        raw: the bytes.
    """

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> RawText:
        """A text to look at, with what is sent."""
        made = super().__new__(cls, raw.decode("latin-1"))
        made.raw = raw
        return made

    def encode(self, *_: Any, **__: Any) -> bytes:
        """What is sent."""
        return self.raw


class RawTime(datetime):
    """A time that is sent as any number."""

    sent: float

    @classmethod
    def of(cls, sent: float) -> RawTime:
        """A time that is sent as `sent`."""
        made = cls(2026, 1, 1, tzinfo=UTC)
        made.sent = sent
        return made

    def timestamp(self) -> float:
        """What is sent."""
        return self.sent


class RawHeaders(Basic.Properties):
    """Properties of which only the headers are sent, as these bytes.

    Args:
        table: an AMQP field table without its length.
    """

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self.table = table

    def marshal(self) -> bytes:
        """What is sent."""
        return struct.pack(">HI", self.flags["headers"], len(self.table)) + self.table


class RawMode(Basic.Properties):
    """Properties of which only the delivery mode is sent.

    Args:
        mode: whatever it is.
    """

    def __init__(self, mode: int) -> None:
        super().__init__()
        self.mode = mode

    def marshal(self) -> bytes:
        """What is sent."""
        return struct.pack(">HB", self.flags["delivery_mode"], self.mode)


def nested(depth: int) -> bytes:
    """A field table with one name, of arrays in arrays."""
    value = b"t\1"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return b"\1x" + value
