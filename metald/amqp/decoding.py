"""Reads what other programs put into the properties of their messages, whatever it is.

The broker passes on what it does not understand: texts that are no UTF-8, times after the year 9999 (microseconds where seconds
belong), headers that cannot be read. pamqp raises on them in the middle of a connection, and aiormq ends it; so one message would
end every connection that it comes by, with whatever else goes over it. Here such a text is read with marks of replacement, such a
time is none, and such headers are one header, `UNREADABLE`, for which the message is put aside.

pamqp keeps its decoders in two tables (`decode.METHODS`, `decode.TABLE_MAPPING`), in which ours take their place.
"""

from __future__ import annotations

import struct
from datetime import datetime

from pamqp import decode
from pamqp.common import FieldTable, FieldValue

UNREADABLE = "metald-unreadable"
"""The one header of a message whose headers cannot be read; it says why."""


def be_lenient() -> None:
    """Have pamqp read everything, from now on, in the whole process."""
    decode.METHODS["shortstr"] = _short_str
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    decode.METHODS["table"] = _table


def _short_str(value: bytes) -> tuple[int, str]:
    end = 1 + value[0]
    return end, value[1:end].decode(errors="replace")


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, FieldTable]:
    try:
        return decode.field_table(value)
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:
        found: dict[str, FieldValue] = {UNREADABLE: f"{type(error).__name__}: {error}"[:200]}
        return 4 + int.from_bytes(value[:4], "big"), found
