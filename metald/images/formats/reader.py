"""Bounded reading of an image file, and the exception for what is found there."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

BROKEN = "Check where the image came from."
FLATTEN = "Flatten it: qemu-img convert -O qcow2 IN OUT."
LARGEST_TABLE = 32 << 20
"""Bytes of the largest table of pointers that a converter may have to hold (the limit of QEMU)."""


class UnsafeError(Exception):
    """An image must not be used.

    Attributes:
        why: what is wrong with it, as the end of a sentence.
        remedy: what to do.
    """

    def __init__(self, why: str, remedy: str = BROKEN) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class Reader:
    """An open image file of which only small pieces are read. Blocks.

    Attributes:
        size: of the file in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at a place; fewer at the end of the file, none behind it."""
        if offset >= self.size:
            return b""
        self._file.seek(offset)
        return self._file.read(min(length, self.size - offset))

    def unpack(self, form: struct.Struct, offset: int, what: str) -> tuple[Any, ...]:
        """Numbers at a place.

        Raises:
            UnsafeError: the file ends before.
        """
        data = self.read(offset, form.size)
        if len(data) < form.size:
            raise UnsafeError(f"{what} is cut off")
        return form.unpack(data)

    def check_inside(self, offset: int, length: int, what: str) -> None:
        """Check that a piece lies inside the file.

        Raises:
            UnsafeError: it does not.
        """
        if offset > self.size or length > self.size - offset:
            raise UnsafeError(f"{what} lies outside the file")


def check_table(length: int, what: str) -> None:
    """Check the length of a table in bytes.

    Raises:
        UnsafeError: no image needs such a large one.
    """
    if length > LARGEST_TABLE:
        raise UnsafeError(f"{what} would take {length} bytes")
