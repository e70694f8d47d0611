"""TFTP datagrams: pure reading and writing of RFC 1350 packets and RFC 2347 options.

Rules: whatever bytes come in, the answer is a packet or `Malformed`. Option names are lower case; the first of an
option that is named twice counts. Reading is generous where clients are known to be sloppy (padding with zeros after
a request, a missing last zero) and never longer than `MAX_REQUEST`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

MAX_REQUEST = 1024
"""Longest request that is read. RFC 2347 allows 512 bytes; some firmware sends long paths and every option it knows."""
MAX_OPTIONS = 16
MAX_MESSAGE = 200

_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


class Opcode(IntEnum):
    """What a datagram is (RFC 1350 section 5, RFC 2347)."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class Code(IntEnum):
    """Why it failed (RFC 1350 appendix, RFC 2347)."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    DISK_FULL = 3
    ILLEGAL = 4
    UNKNOWN_ID = 5
    EXISTS = 6
    NO_USER = 7
    OPTIONS = 8


class Malformed(ValueError):
    """The bytes are no TFTP datagram."""


@dataclass(frozen=True, slots=True)
class Request:
    """RRQ or WRQ."""

    name: str
    mode: str = "octet"
    options: Mapping[str, str] = field(default_factory=dict)
    write: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """A block; one that is shorter than the block size is the last."""

    block: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """A block has arrived, and with `windowsize` all before it."""

    block: int


@dataclass(frozen=True, slots=True)
class Error:
    """The transfer ends."""

    code: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class OptionAck:
    """The options that the server takes, with its values."""

    options: Mapping[str, str] = field(default_factory=dict)


Packet = Request | Data | Ack | Error | OptionAck


def parse(datagram: bytes) -> Packet:
    """Read a datagram.

    Raises:
        Malformed: it is none of TFTP's.
    """
    if len(datagram) < 4 or datagram[0] != 0:
        raise Malformed("not a TFTP datagram")
    number = int.from_bytes(datagram[2:4], "big")
    match datagram[1]:
        case Opcode.RRQ | Opcode.WRQ:
            return _request(datagram)
        case Opcode.DATA:
            return Data(number, datagram[4:])
        case Opcode.ACK:
            return Ack(number)
        case Opcode.ERROR:
            return Error(number, datagram[4 : 4 + MAX_MESSAGE].partition(b"\0")[0].decode("utf-8", "replace"))
        case Opcode.OACK:
            return OptionAck(_options(datagram[2:].split(b"\0")))
    raise Malformed("unknown opcode")


def encode(packet: Packet) -> bytes:
    """Write a datagram."""
    match packet:
        case Request(name, mode, options, write):
            opcode = Opcode.WRQ if write else Opcode.RRQ
            return _words(opcode, [name, mode, *(word for pair in options.items() for word in pair)])
        case Data(block, payload):
            return header(block) + payload
        case Ack(block):
            return bytes((0, Opcode.ACK, block >> 8 & 0xFF, block & 0xFF))
        case Error(code, message):
            text = message.encode("utf-8", "replace").replace(b"\0", b"?")[:MAX_MESSAGE]
            return bytes((0, Opcode.ERROR, 0, code)) + text + b"\0"
        case OptionAck(options):
            return _words(Opcode.OACK, [word for pair in options.items() for word in pair])


def header(block: int) -> bytes:
    """The head of the DATA datagram of a block; its number rolls over to 0 after 65535."""
    return bytes((0, Opcode.DATA, block >> 8 & 0xFF, block & 0xFF))


def number(text: str | None) -> int | None:
    """An option's decimal value, or None when it is none."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def to_netascii(data: bytes) -> bytes:
    """Text as it travels in netascii mode (RFC 764): CR LF ends a line, a bare CR is followed by NUL."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def _request(datagram: bytes) -> Request:
    if len(datagram) > MAX_REQUEST:
        raise Malformed("request too long")
    words = datagram[2:].split(b"\0")
    if len(words) < 2 or not words[0] or not words[1]:
        raise Malformed("request without name or mode")
    name, mode = words[0].decode("utf-8", "replace"), words[1].decode("ascii", "replace").lower()
    return Request(name, mode, _options(words[2:]), datagram[1] == Opcode.WRQ)


def _options(words: list[bytes]) -> dict[str, str]:
    options: dict[str, str] = {}
    for at in range(0, len(words) - 1, 2):
        name = words[at].decode("ascii", "replace").lower()
        if not name or len(options) >= MAX_OPTIONS:
            break
        options.setdefault(name, words[at + 1].decode("ascii", "replace"))
    return options


def _words(opcode: Opcode, words: list[str]) -> bytes:
    return bytes((0, opcode)) + b"".join(word.encode() + b"\0" for word in words)
