"""The server's side of the remote framebuffer protocol, RFB 3.3 to 3.8 (RFC 6143): bytes in, bytes out, no I/O.

What is shown is one colour that never changes, which is what a pretended machine has to show. Rules: nobody is asked for a
password (whoever may connect is decided before); what a client sends is bounded; what is no RFB ends the session.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

VERSION = b"RFB 003.008\n"
_NONE = 1
"""The security type that asks for nothing (RFC 6143 section 7.2.1)."""
_RAW, _RRE = 0, 2
_MOST_TEXT = 1 << 20
"""Most bytes of a clipboard that is thrown away."""
_NAMED = {0: "SetPixelFormat", 2: "SetEncodings", 3: "FramebufferUpdateRequest", 4: "KeyEvent", 5: "PointerEvent", 6: "ClientCutText"}
_FIXED = {0: 20, 3: 10, 4: 8, 5: 6}
"""Bytes of the messages whose size is always the same (section 7.5)."""


class NotRfb(ValueError):
    """The client does not speak the protocol."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How pixels are sent (section 7.4); the defaults are 32 bits with red in the third byte."""

    bits: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    most: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    @classmethod
    def read(cls, data: bytes) -> PixelFormat:
        """From the sixteen bytes that a client sends.

        Raises:
            NotRfb: pixels are of no size that there is.
        """
        bits, depth, big, true, *rest = struct.unpack(">BBBBHHHBBB3x", data)
        if bits not in (8, 16, 32):
            raise NotRfb(f"pixels of {bits} bits")
        return cls(bits, depth, bool(big), bool(true), tuple(rest[:3]), tuple(shift % 32 for shift in rest[3:]))

    def write(self) -> bytes:
        """The sixteen bytes that tell of it."""
        return struct.pack(">BBBBHHHBBB3x", self.bits, self.depth, self.big_endian, self.true_colour, *self.most, *self.shifts)

    def pixel(self, colour: tuple[int, int, int]) -> bytes:
        """One pixel of a colour, whose parts are 0 to 255; with a colour map it is the first of the map."""
        value = 0
        if self.true_colour:
            for part, most, shift in zip(colour, self.most, self.shifts, strict=True):
                value |= (part * most // 255) << shift
        mask = (1 << self.bits) - 1
        return (value & mask).to_bytes(self.bits // 8, "big" if self.big_endian else "little")


class Screen:
    """One client's session with a screen of one colour.

    Args:
        name: what the client is told the desktop is called.
        size: width and height in pixels.
        colour: red, green and blue, 0 to 255.
    """

    def __init__(self, name: str, size: tuple[int, int] = (320, 200), colour: tuple[int, int, int] = (0x20, 0x40, 0x60)) -> None:
        self._name = name.encode()
        self._width, self._height = size
        self._colour = colour
        self._format = PixelFormat()
        self._small = False
        self._buffer = bytearray()
        self._step: Callable[[], bytes | None] = self._version

    def greeting(self) -> bytes:
        """What is sent first."""
        return VERSION

    def receive(self, data: bytes) -> bytes:
        """What is to be answered to some bytes of the client's.

        Raises:
            NotRfb: they make no sense.
        """
        self._buffer += data
        out = bytearray()
        while (answer := self._step()) is not None:
            out += answer
        return bytes(out)

    def _take(self, count: int) -> bytes | None:
        if len(self._buffer) < count:
            return None
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _version(self) -> bytes | None:
        line = self._take(len(VERSION))
        if line is None:
            return None
        if line not in (b"RFB 003.003\n", b"RFB 003.007\n", VERSION):
            raise NotRfb("no version that there is")
        if line == b"RFB 003.003\n":
            self._step = self._init
            return struct.pack(">I", _NONE)
        self._step = lambda: self._security(told=line == VERSION)
        return bytes((1, _NONE))

    def _security(self, *, told: bool) -> bytes | None:
        chosen = self._take(1)
        if chosen is None:
            return None
        if chosen[0] != _NONE:
            raise NotRfb("a security type that was not offered")
        self._step = self._init
        return struct.pack(">I", 0) if told else b""

    def _init(self) -> bytes | None:
        if self._take(1) is None:
            return None
        self._step = self._message
        return struct.pack(">HH", self._width, self._height) + self._format.write() + struct.pack(">I", len(self._name)) + self._name

    def _message(self) -> bytes | None:
        if not self._buffer:
            return None
        kind = self._buffer[0]
        if kind not in _NAMED:
            raise NotRfb(f"message {kind}")
        size = _FIXED.get(kind) or self._size(kind)
        message = self._take(size) if size is not None else None
        if message is None:
            return None
        if kind == 0:
            self._format = PixelFormat.read(message[4:])
        elif kind == 2:
            self._small = _RRE in struct.unpack(f">{(len(message) - 4) // 4}i", message[4:])
        elif kind == 3 and not message[1]:
            return self._update(*struct.unpack(">HHHH", message[2:]))
        return b""

    def _size(self, kind: int) -> int | None:
        """How long a message is whose size is told in it; None as long as that is not there."""
        head = 4 if kind == 2 else 8
        if len(self._buffer) < head:
            return None
        if kind == 2:
            return head + 4 * int.from_bytes(self._buffer[2:4], "big")
        length = int.from_bytes(self._buffer[4:8], "big")
        if length > _MOST_TEXT:
            raise NotRfb("a clipboard without end")
        return head + length

    def _update(self, x: int, y: int, width: int, height: int) -> bytes:
        """The part of the screen that was asked for (sections 7.6.1, 7.7.1 and 7.7.3)."""
        x, y = min(x, self._width), min(y, self._height)
        width, height = min(width, self._width - x), min(height, self._height - y)
        pixel = self._format.pixel(self._colour)
        head = struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, _RRE if self._small else _RAW)
        return head + (struct.pack(">I", 0) + pixel if self._small else pixel * (width * height))
