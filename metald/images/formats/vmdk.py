"""VMDK images that lie in one file. Layout: VMware Virtual Disk Format 1.1; text descriptors as QEMU recognises them.

Only `monolithicSparse` and `streamOptimized` with one extent, their own, are taken: every other kind names files.
"""

from __future__ import annotations

import re
import struct

from metald.images.formats.reader import Reader, UnsafeError, check_table

_SECTOR = 512
_HEADER = struct.Struct("<4sIIQQQQIQQQBBBBBH")
_AT_END = (1 << 64) - 1
_LARGEST_DESCRIPTOR = 64 << 10
_LARGEST_GRAIN = 1 << 12  # sectors: 2 MiB
_MOST_ENTRIES = 512
_TYPES = ("monolithicsparse", "streamoptimized")
_FLATTEN = "Convert it: qemu-img convert -O qcow2 IN OUT."
_EXTENT = re.compile(r"(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z0-9]+)\b", re.ASCII)


def is_descriptor(head: bytes) -> bool:
    """Whether a file begins like a text descriptor: comments and empty lines, then `version=`, as QEMU looks for it."""
    if head.startswith(b"# Disk DescriptorFile"):
        return True
    for line in head[:_LARGEST_DESCRIPTOR].split(b"\n"):
        words = line.strip(b" \r")
        if words and not words.startswith(b"#"):
            return re.match(rb"version\s*=", words, re.IGNORECASE) is not None
    return False


def check(reader: Reader) -> int:
    """Check header, footer and descriptor; returns the size of the disk in bytes.

    Raises:
        UnsafeError: it names other files or a parent, or its numbers are impossible.
    """
    if reader.read(0, 4) != b"KDMV":
        raise UnsafeError("it is a descriptor, which names other files", _FLATTEN)
    capacity, descriptor, at_end = _check_header(reader, 0)
    if at_end:
        _check_footer(reader, capacity, descriptor)
    _check_descriptor(reader, *descriptor)
    return capacity * _SECTOR


def _check_header(reader: Reader, offset: int) -> tuple[int, tuple[int, int], bool]:
    """Capacity in sectors, place of the descriptor, and whether the directory stands in a footer."""
    fields = reader.unpack(_HEADER, offset, "its header")
    magic, version, _, capacity, grain, place, size, entries, redundant, directory = fields[:10]
    if magic != b"KDMV" or version not in (1, 2, 3):
        raise UnsafeError(f"version {version} is not known")
    if not capacity or not 8 <= grain <= _LARGEST_GRAIN or grain & (grain - 1) or not 0 < entries <= _MOST_ENTRIES:
        raise UnsafeError("its header holds impossible numbers")
    table = -(-capacity // (grain * entries)) * 4
    check_table(table, "its directory of grains")
    at_end = directory == _AT_END
    for place_of_table in (directory, redundant):
        if place_of_table and not at_end:
            reader.check_inside(place_of_table * _SECTOR, table, "its directory of grains")
    if not place or not 0 < size * _SECTOR <= _LARGEST_DESCRIPTOR:
        raise UnsafeError("it has no descriptor of its own, or one too large")
    reader.check_inside(place * _SECTOR, size * _SECTOR, "its descriptor")
    return int(capacity), (place * _SECTOR, size * _SECTOR), at_end


def _check_footer(reader: Reader, capacity: int, descriptor: tuple[int, int]) -> None:
    """The footer replaces the header, so it must say the same."""
    if reader.size < 4 * _SECTOR:
        raise UnsafeError("its footer is cut off")
    again, place, at_end = _check_header(reader, reader.size - 2 * _SECTOR)
    if (again, place) != (capacity, descriptor) or at_end:
        raise UnsafeError("its footer contradicts its header")


def _check_descriptor(reader: Reader, place: int, size: int) -> None:
    text = reader.read(place, size).split(b"\0")[0].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    settings = {name.strip().lower(): value.strip().strip('"') for name, mark, value in (line.partition("=") for line in lines) if mark}
    kind = settings.get("createtype", "")
    if kind.lower() not in _TYPES:
        raise UnsafeError(f"its kind {kind[:40]!r} keeps data in other files", _FLATTEN)
    if settings.get("parentcid", "ffffffff").lower() != "ffffffff" or any(
        name.startswith("parent") and name != "parentcid" for name in settings
    ):
        raise UnsafeError("it has a parent", _FLATTEN)
    extents = [found for line in lines if (found := _EXTENT.match(line))]
    loose = [line for line in lines if line.split(" ")[0].split("\t")[0].upper() in ("RW", "RDONLY", "NOACCESS")]
    if len(extents) != 1 or len(loose) != 1 or extents[0][3] != "SPARSE":
        raise UnsafeError("it keeps data in other files", _FLATTEN)
