"""Tells what an image file really is, by its bytes, and refuses what would make a converter reach beyond the file.

An image is never handed to `qemu-img` with the format left open: a raw disk that begins with a qcow2 header naming
`/etc/shadow` as its backing file would otherwise be read through it. Layouts: QEMU docs/interop/qcow2.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from metald.errors import ImageError

HEAD = 0x8000 + 2048
"""How many bytes of a file's start decide."""

DISKS = ("raw", "gpt", "mbr", "iso")
"""What counts as a raw disk image."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"MSWIM\0\0\0", "wim"),
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (0x8001, b"CD001", "iso"),
    (257, b"ustar", "tar"),
)
_PACKED = frozenset({"gzip", "bzip2", "xz", "zstd", "lz4", "zip", "tar"})

_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQ")
_DIRTY, _CORRUPT, _EXTERNAL, _KNOWN = 1, 2, 4, 0b11111
_EXTENSION_DATA_FILE = 0x44415441
_LARGEST_L1 = 32 << 20


@dataclass(frozen=True, slots=True)
class Format:
    """What an image is: its format by its bytes, and how large the disk is that it describes."""

    name: str
    size: int

    @property
    def is_disk(self) -> bool:
        """Whether the bytes can be written to a disk as they are."""
        return self.name in DISKS


def detect(head: bytes, size: int, tail: bytes = b"") -> str:
    """The format by its marks.

    Args:
        head: the first `HEAD` bytes, fewer when the file is shorter.
        size: the file's size in bytes.
        tail: the last 512 bytes, where fixed VHD images have theirs.
    """
    for offset, mark, name in _MAGIC:
        if head.startswith(mark, offset):
            return name
    if tail.startswith(b"conectix") and size > 512:
        return "vhd"
    return "mbr" if head[510:512] == b"\x55\xaa" else "raw"


def inspect(file: BinaryIO, shown: str, *, declared: str | None, largest: int) -> Format:
    """Look at an open image. Blocks; run it in a thread.

    Args:
        file: the image.
        shown: what errors call it.
        declared: `raw` or `qcow2` when the deployment says so.
        largest: the largest disk in bytes that may be described.

    Raises:
        ImageError: it is not what was declared, not deployable, or unsafe.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 512))
    tail = file.read(512)
    file.seek(0)
    head = file.read(HEAD)
    if not size:
        raise ImageError(f"The image {shown} is empty.")
    name = detect(head, size, tail)
    kind = "raw" if name in DISKS else name
    if declared is not None and declared != kind:
        remedy = f"Set instance_info/image_disk_format to {kind}." if kind in ("raw", "qcow2") else "Check where the image came from."
        raise ImageError(f"The image {shown} is declared as {declared}, but it is {name}.", remedy=remedy)
    if name in _PACKED:
        raise ImageError(f"The image {shown} is packed ({name}).", remedy="Unpack it, and give the checksum of what was inside.")
    if name == "qcow2":
        size = check_qcow2(head, size, shown)
    elif name not in DISKS:
        raise ImageError(f"The image {shown} is {name}, which cannot be deployed.", remedy="Convert it: qemu-img convert -O raw IN OUT.")
    if size > largest:
        raise ImageError(
            f"The image {shown} describes a disk of {size} bytes, more than the image cache may hold ({largest}).",
            remedy="Use a smaller image, or raise images.cache_size.",
        )
    return Format(name, size)


def _refuse(shown: str, why: str, remedy: str = "Flatten it: qemu-img convert -O qcow2 IN OUT.") -> ImageError:
    return ImageError(f"The qcow2 image {shown} is refused: {why}.", remedy=remedy)


_BROKEN = "Check where the image came from."


def check_qcow2(head: bytes, size: int, shown: str) -> int:
    """Check a qcow2 header and return the size of the disk in bytes.

    Raises:
        ImageError: it refers to other files, is encrypted, damaged, or uses features that are not known to be safe.
    """

    if len(head) < 104:
        raise _refuse(shown, "its header is cut off", _BROKEN)
    _, version, backing, _, cluster_bits, virtual, crypt, l1_size, l1_offset, table, clusters, _, _ = _QCOW2.unpack_from(head)
    if version not in (2, 3):
        raise _refuse(shown, f"version {version} is not known", _BROKEN)
    if backing:
        raise _refuse(shown, "it has a backing file")
    if crypt:
        raise _refuse(shown, "it is encrypted", "Decrypt it: qemu-img convert.")
    if not 9 <= cluster_bits <= 21 or l1_size * 8 > _LARGEST_L1 or not clusters or not virtual:
        raise _refuse(shown, "its header holds impossible numbers", _BROKEN)
    for offset in (l1_offset, table):
        if offset % (1 << cluster_bits) or offset >= size:
            raise _refuse(shown, "its tables lie outside the file", _BROKEN)
    if version == 3:
        _check_features(head, shown)
    return int(virtual)


def _check_features(head: bytes, shown: str) -> None:
    (features,) = struct.unpack_from(">Q", head, 72)
    (length,) = struct.unpack_from(">I", head, 100)
    if features & _EXTERNAL:
        raise _refuse(shown, "its data lies in another file")
    if features & (_DIRTY | _CORRUPT):
        raise _refuse(shown, "it is marked as dirty or corrupt", "Repair it: qemu-img check -r all IMAGE.")
    if features & ~_KNOWN:
        raise _refuse(shown, f"it needs unknown features ({features & ~_KNOWN:#x})")
    if length < 104 or length % 8 or length > len(head):
        raise _refuse(shown, "its header holds impossible numbers", _BROKEN)
    at = length
    while at + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        if kind == _EXTENSION_DATA_FILE:
            raise _refuse(shown, "it names another file for its data")
        at += 8 + (size + 7) // 8 * 8
