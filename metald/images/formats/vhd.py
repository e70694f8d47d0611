"""VHD images, fixed and dynamic. Layout: Microsoft, Virtual Hard Disk Image Format Specification 1.0."""

from __future__ import annotations

import struct

from metald.images.formats.reader import Reader, UnsafeError, check_table

FOOTER = 512
_FOOTER = struct.Struct(">8sIIQ4s4s4s4sQQIII16s")
_DYNAMIC = struct.Struct(">8sQQIIII16sI4s512s")
_LOCATORS = struct.Struct(">8I")
_FIXED, _GROWING, _DIFFERENCING = 2, 3, 4
_LARGEST_BLOCK = 256 << 20
_FLATTEN = "Merge it with its parent: qemu-img convert -O qcow2 IN OUT."


def check(reader: Reader) -> int:
    """Check footer and header; returns the size of the disk in bytes.

    Raises:
        UnsafeError: it has a parent, or its numbers are impossible.
    """
    if reader.read(0, 8) == b"conectix":
        size, kind, place = _check_footer(reader, 0)
        if kind != _GROWING:
            raise UnsafeError("its header holds impossible numbers")
        _check_dynamic(reader, place, size)
        return size
    size, kind, place = _check_footer(reader, reader.size - FOOTER)
    if kind == _GROWING:
        _check_dynamic(reader, place, size)
    elif size + FOOTER != reader.size:
        raise UnsafeError(f"it claims a disk of {size} bytes, and the file has {reader.size - FOOTER}")
    return size


def _check_footer(reader: Reader, offset: int) -> tuple[int, int, int]:
    """Size of the disk, its kind, and the place of the dynamic header."""
    fields = reader.unpack(_FOOTER, offset, "its footer")
    size, kind = int(fields[9]), int(fields[11])
    if kind == _DIFFERENCING:
        raise UnsafeError("it has a parent", _FLATTEN)
    if kind not in (_FIXED, _GROWING) or not size or size % 512:
        raise UnsafeError("its footer holds impossible numbers")
    return size, kind, int(fields[3])


def _check_dynamic(reader: Reader, offset: int, size: int) -> None:
    cookie, _, table, _, entries, block, _, parent, _, _, name = reader.unpack(_DYNAMIC, offset, "its header")
    if cookie != b"cxsparse" or not 512 <= block <= _LARGEST_BLOCK or block & (block - 1):
        raise UnsafeError("its header holds impossible numbers")
    locators = [reader.unpack(_LOCATORS, offset + 576 + 24 * index, "its header")[0] for index in range(8)]
    if any(parent) or any(name) or any(locators):
        raise UnsafeError("it has a parent", _FLATTEN)
    check_table(entries * 4, "its table of blocks")
    reader.check_inside(table, entries * 4, "its table of blocks")
    if entries * block < size:
        raise UnsafeError(f"its table of blocks is too short for a disk of {size} bytes")
