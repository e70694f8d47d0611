"""Tells the format of a file by its marks: what stands at its start, at its end, and where partition tables begin.

A file that is a container of one kind and carries the marks of another is nobody's honest image: programs would disagree
about what it is.
"""

from __future__ import annotations

from metald.images.formats import vmdk

HEAD = (32 << 10) + 2048
"""How many bytes of a file's start decide."""

TAIL = 512
DISKS = ("raw", "gpt", "mbr", "iso")
"""What counts as a raw disk image."""

PACKINGS = ("gzip", "zstd")
"""What a raw disk may be packed with."""

_CONTAINERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    (0, b"OOOM", "cow"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"MSWIM\0\0\0", "wim"),
    (257, b"ustar", "tar"),
)
_PACKED = frozenset({"gzip", "bzip2", "xz", "zstd", "lz4", "zip", "7z"})
_ENDS: tuple[tuple[bytes, str], ...] = ((b"conectix", "vhd"), (b"koly", "dmg"))
_TABLES: tuple[tuple[int, bytes, str], ...] = (
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (0x8001, b"CD001", "iso"),
    (510, b"\x55\xaa", "mbr"),
)


def detect(head: bytes, tail: bytes = b"") -> list[str]:
    """The formats whose marks a file carries: first what it is, then what else it could be taken for.

    Args:
        head: the first `HEAD` bytes, fewer when the file is shorter.
        tail: the last `TAIL` bytes; empty when they are part of the head.
    """
    found = [name for offset, mark, name in _CONTAINERS if head.startswith(mark, offset)]
    if vmdk.is_descriptor(head):
        found.append("vmdk")
    ends = [name for mark, name in _ENDS if tail.startswith(mark)]
    tables = [name for offset, mark, name in _TABLES if head.startswith(mark, offset)]
    if not found:
        # what carries its mark at its end begins with the disk itself
        return ends or tables[:1] or ["raw"]
    if found[0] in _PACKED:
        return found[:1]  # the rest of it may read like anything
    return list(dict.fromkeys(found + ends + tables))
