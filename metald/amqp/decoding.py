"""Reads what other programs put into the properties of their messages, whatever it is, and passes on what can be passed on.

The broker hands on what it does not understand: texts that are no UTF-8, times after the year 9999 (microseconds where seconds
belong), headers nested a thousand deep; and later versions of RabbitMQ delivery modes that there are not. pamqp and aio-pika raise on
them in the middle of a connection; so one message would end every connection that it comes by, with whatever else goes over it, or
never be seen. Here such a text has marks where its bytes mean nothing, such a time or mode is none (or, among headers, a time is its
bare number), and headers that cannot be read are one header, `UNREADABLE`. Whoever reads the message looks for the marks and for
that header, and puts it aside.

pamqp keeps its decoders in two tables (`decode.METHODS`, `decode.TABLE_MAPPING`), in which ours take their place.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pamqp import decode, encode
from pamqp.commands import Basic
from pamqp.common import FieldTable, FieldValue

UNREADABLE = "metald-unreadable"
"""The one header of a message whose headers cannot be read; it says why."""
SUBSTITUTE = "\x1a"
"""In place of each byte that means nothing in a short text: ASCII's own character for that. No longer than the byte, as a text that is
sent back may not be longer than it was."""

_MODE = "delivery mode"
"""Its type in place of `octet`, so that it has a decoder of its own."""
_TROUBLE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error)


def be_lenient() -> None:
    """Have pamqp read everything, from now on, in the whole process."""
    decode.METHODS["shortstr"] = _short_str
    decode.METHODS["timestamp"] = _timestamp
    decode.METHODS["table"] = _table
    decode.TABLE_MAPPING[b"T"] = _timestamp_in_table
    decode.METHODS[_MODE], encode.METHODS[_MODE] = _delivery_mode, encode.octet
    Basic.Properties._delivery_mode = _MODE


def writable(headers: Mapping[str, Any], most: int) -> FieldTable:
    """Those headers of a message that can be sent again: pamqp writes less than it reads, and a frame has its bounds.

    Args:
        headers: as they were read.
        most: bytes that they may take together.
    """
    found: FieldTable = {}
    for name, value in headers.items():
        kept = value.decode(errors="replace") if isinstance(value, bytes) else value
        try:
            size = len(encode.field_table({name: kept}))
        except _TROUBLE:
            continue
        if size <= most:
            most -= size
            found[name] = kept
    return found


def _short_str(value: bytes) -> tuple[int, str]:
    end = 1 + value[0]
    text = value[1:end]
    try:
        return end, text.decode()
    except UnicodeDecodeError:
        return end, text.decode("ascii", errors="replace").replace("\N{REPLACEMENT CHARACTER}", SUBSTITUTE)


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    try:
        return decode.timestamp(value)
    except (ValueError, ArithmeticError, OSError):
        return 8, None


def _timestamp_in_table(value: bytes) -> tuple[int, datetime | int]:
    consumed, read = _timestamp(value)
    return consumed, int.from_bytes(value[:8], "big") if read is None else read


def _delivery_mode(value: bytes) -> tuple[int, int | None]:
    return 1, value[0] if value[0] in (1, 2) else None


def _table(value: bytes) -> tuple[int, FieldTable]:
    try:
        return decode.field_table(value)
    except _TROUBLE as error:
        found: dict[str, FieldValue] = {UNREADABLE: f"{type(error).__name__}: {error}"[:200]}
        return 4 + int.from_bytes(value[:4], "big"), found
