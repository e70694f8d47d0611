"""VDI images of VirtualBox. Layout: QEMU, block/vdi.c."""

from __future__ import annotations

import struct

from metald.images.formats.reader import Reader, UnsafeError, check_table

_HEADER = struct.Struct("<IIIII256sIIIIIIIQIIII16s16s16s16s")
_VERSION = 0x00010001
_DYNAMIC, _STATIC = 1, 2
_BLOCK = 1 << 20


def check(reader: Reader) -> int:
    """Check the header; returns the size of the disk in bytes.

    Raises:
        UnsafeError: it has a parent, or its numbers are impossible.
    """
    fields = reader.unpack(_HEADER, 0x40, "its header")
    _, version, _, kind, _, _, table, data, _, _, _, sector, _, size, block, _, blocks, allocated, _, _, link, parent = fields
    if version != _VERSION:
        raise UnsafeError(f"version {version:#x} is not known")
    if kind not in (_DYNAMIC, _STATIC) or any(link) or any(parent):
        raise UnsafeError("it is a difference to another image", "Merge it: qemu-img convert -O qcow2 IN OUT.")
    if sector != 512 or block != _BLOCK or not size or allocated > blocks or table % 512 or data % 512 or size % 512:
        raise UnsafeError("its header holds impossible numbers")
    check_table(blocks * 4, "its table of blocks")
    reader.check_inside(table, blocks * 4, "its table of blocks")
    if blocks * block < size:
        raise UnsafeError(f"its table of blocks is too short for a disk of {size} bytes")
    return int(size)
