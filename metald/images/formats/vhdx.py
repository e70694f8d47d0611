"""VHDX images. Layout: Microsoft, [MS-VHDX] 1.0."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

from metald.images.formats.reader import Reader, UnsafeError, check_table

_KIB = 1024
_HEADERS = (64 * _KIB, 128 * _KIB)
_REGIONS = (192 * _KIB, 256 * _KIB)
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_TABLE = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_METADATA = struct.Struct("<8sHH20s")
_ITEM = struct.Struct("<16sIII4s")
_MOST = 2047
_HAS_PARENT = 2
_METADATA_REGION = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_BLOCKS_REGION = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_PARENT = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_FLATTEN = "Merge it with its parent: qemu-img convert -O qcow2 IN OUT."


def check(reader: Reader) -> int:
    """Check headers, region tables and metadata; returns the size of the disk in bytes.

    Raises:
        UnsafeError: it has a parent, was not closed, or its numbers are impossible.
    """
    _check_log(reader)
    # A reader may use either copy, so both must be harmless and say the same.
    found = {_check_regions(reader, offset) for offset in _REGIONS}
    if len(found) != 1:
        raise UnsafeError("its region tables contradict each other")
    return found.pop()


def _check_log(reader: Reader) -> None:
    """A log that was not played back is refused, for it changes what was checked."""
    whole = 0
    for offset in _HEADERS:
        fields = reader.unpack(_HEADER, offset, "its header")
        if fields[0] != b"head":
            continue
        whole += 1
        if any(fields[5]):
            raise UnsafeError("its log was not played back", "Open and close it with the program that made it, or convert it.")
    if not whole:
        raise UnsafeError("it has no header")


def _check_regions(reader: Reader, offset: int) -> int:
    magic, _, count, _ = reader.unpack(_TABLE, offset, "its region table")
    if magic != b"regi" or not 0 < count <= _MOST:
        raise UnsafeError("its region table holds impossible numbers")
    regions: dict[bytes, tuple[int, int]] = {}
    for index in range(count):
        kind, place, length, required = reader.unpack(_REGION, offset + 16 + 32 * index, "its region table")
        if kind in regions or (required & 1 and kind not in (_METADATA_REGION, _BLOCKS_REGION)):
            raise UnsafeError("its region table holds what is not known")
        regions[kind] = (place, length)
        if kind in (_METADATA_REGION, _BLOCKS_REGION):
            reader.check_inside(place, length, "one of its regions")
    if _METADATA_REGION not in regions or _BLOCKS_REGION not in regions:
        raise UnsafeError("its region table lacks a region")
    check_table(regions[_BLOCKS_REGION][1], "its table of blocks")
    return _check_metadata(reader, *regions[_METADATA_REGION])


def _items(reader: Reader, offset: int, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of each item."""
    magic, _, count, _ = reader.unpack(_METADATA, offset, "its metadata")
    if magic != b"metadata" or count > _MOST:
        raise UnsafeError("its metadata holds impossible numbers")
    for index in range(count):
        kind, place, size, _, _ = reader.unpack(_ITEM, offset + 32 + 32 * index, "its metadata")
        if place + size > length:
            raise UnsafeError("its metadata lies outside its region")
        yield kind, offset + place, size


def _check_metadata(reader: Reader, offset: int, length: int) -> int:
    found: dict[bytes, int] = {}
    for kind, place, _ in _items(reader, offset, length):
        if kind == _PARENT:
            raise UnsafeError("it has a parent", _FLATTEN)
        if kind in found:
            raise UnsafeError("its metadata says things twice")
        found[kind] = place
    if _PARAMETERS not in found or _SIZE not in found:
        raise UnsafeError("its metadata lacks the size of the disk")
    _, flags = reader.unpack(struct.Struct("<II"), found[_PARAMETERS], "its metadata")
    if flags & _HAS_PARENT:
        raise UnsafeError("it has a parent", _FLATTEN)
    (size,) = reader.unpack(struct.Struct("<Q"), found[_SIZE], "its metadata")
    if not size or size % 512:
        raise UnsafeError("its metadata holds impossible numbers")
    return int(size)
