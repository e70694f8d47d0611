"""Streams in the content coding gzip, made of blocks that all watchers share.

Deflate looks back over what it has written; after a full flush it does not, and stands at the edge of a byte. So a block that begins
and ends there means the same wherever it stands: it is made once, and each stream puts it after whatever it has had before. What a
stream has of its own is the header, and the check at its end, which is put together from the checks of the blocks without a look at
their bytes.

Source: RFC 1951 (deflate), RFC 1952 (gzip, 2.3.1 for the check), RFC 9110, 8.4.1.3 and 12.5.3 (who accepts what).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import cached_property

_LEVEL = 1
"""The fastest: JSON repeats itself so much that the others gain a tenth for twice the time."""
_RAW = -15
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_SIZE = 1 << 32


class Block:
    """Bytes that go into many streams, plain or packed; packed when somebody first needs that, once.

    Args:
        plain: the bytes.
    """

    def __init__(self, plain: bytes) -> None:
        self.plain = plain

    @cached_property
    def packed(self) -> bytes:
        """As deflate's blocks."""
        squeeze = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
        return squeeze.compress(self.plain) + squeeze.flush(zlib.Z_FULL_FLUSH)

    @cached_property
    def plain_chunk(self) -> bytes:
        """The plain bytes as a chunk of HTTP (RFC 9112, 7.1)."""
        return _chunk(self.plain)

    @cached_property
    def packed_chunk(self) -> bytes:
        """The packed bytes as a chunk of HTTP."""
        return _chunk(self.packed)

    @cached_property
    def _check(self) -> tuple[int, Sequence[Sequence[int]]]:
        """The CRC-32 of the bytes, and how that of all before them is moved on by them: see `_table`."""
        nothing = bytes(len(self.plain))
        return zlib.crc32(self.plain), _table(zlib.crc32(nothing, _ONE) ^ zlib.crc32(nothing))

    def after(self, crc: int) -> int:
        """The CRC-32 of these bytes after others, from that of the others."""
        own, (a, b, c, d, e, f, g, h) = self._check
        high = a[crc >> 28] ^ b[crc >> 24 & 15] ^ c[crc >> 20 & 15] ^ d[crc >> 16 & 15]
        return own ^ high ^ e[crc >> 12 & 15] ^ f[crc >> 8 & 15] ^ g[crc >> 4 & 15] ^ h[crc & 15]


class Gzip:
    """One stream: what it sends for each block, and its end."""

    def __init__(self) -> None:
        self._crc = 0
        self._size = 0
        self._begun = False

    def encode(self, block: Block) -> bytes:
        """What is to be sent for the next block."""
        begun, self._begun = self._begun, True
        self.count(block)
        return block.packed if begun else _HEADER + block.packed

    def count(self, block: Block) -> None:
        """The packed bytes of a block, which is not the first, are sent as they are."""
        self._crc = block.after(self._crc)
        self._size = (self._size + len(block.plain)) % _SIZE

    def end(self) -> bytes:
        """What is to be sent when nothing follows."""
        return (b"" if self._begun else _HEADER) + _LAST_BLOCK + struct.pack("<II", self._crc, self._size)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _table(factor: int) -> list[list[int]]:
    """The products of a polynomial with each that has four terms only, modulo that of CRC-32: eight tables, of four bits each.

    The highest bit is the lowest power, as everywhere in CRC-32. Bytes multiply what came before them by x to the power of eight times
    their number; the sum of eight look-ups is such a product.
    """
    tables = []
    for _ in range(8):
        rows = []
        for _ in range(4):
            rows.append(factor)
            factor = factor >> 1 ^ _POLYNOMIAL if factor & 1 else factor >> 1
        entries = [0]
        for row in reversed(rows):
            entries += [entry ^ row for entry in entries]
        tables.append(entries)
    return tables


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a client wants gzip, at least as much as plain bytes, by its header `Accept-Encoding`.

    What cannot be read in it is not accepted; who sends no header wants plain bytes.
    """
    weights: dict[str, float] = {}
    for part in (accept_encoding or "").lower().split(","):
        coding, _, parameter = part.partition(";")
        weights[coding.strip()] = _weight(parameter.strip())
    wanted = max(weights.get(name, 0.0) for name in ("gzip", "x-gzip")) if weights.keys() & {"gzip", "x-gzip"} else weights.get("*", 0.0)
    return wanted > 0 and wanted >= weights.get("identity", 0.0)


def _weight(parameter: str) -> float:
    """Of a coding: 1 without a parameter, 0 where it cannot be read."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.strip().replace(".", "", 1)
    if name.strip() != "q" or not (digits.isascii() and digits.isdigit()):
        return 0.0
    return min(1.0, float(value))
