"""A FAT16 file system around files that lie elsewhere: only what is between them is made, in memory. Pure.

It is written once and read by firmware and GRUB: one fixed layout, names in the short form (8.3, capital letters), every file in
one piece. The files follow each other in the order they were given, each from the start of a cluster.

Source: Microsoft, FAT: General Overview of On-Disk Format, version 1.03 (UEFI 2.10 section 13.3 refers to it).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECTOR = 512
MOST = 2 << 30
"""Bytes of a file system at most, about: 65,508 clusters of 32 KiB."""

_LEAST_CLUSTERS, _MOST_CLUSTERS = 4085 + 16, 65524 - 16
"""With fewer than 4,085 it would be FAT12, with more than 65,524 FAT32: the number of clusters alone decides. Sixteen off is what
Microsoft advises, for drivers that count wrong."""
_TABLES = 2
_RESERVED = 1
_ROOT_ENTRIES = 512
_ENTRY = 32
_FIRST_CLUSTER = 2
_END = 0xFFFF
_MEDIA = 0xF8
_DIRECTORY, _ARCHIVE = 0x10, 0x20
_BOOT = struct.Struct("<3s8sHBHBHHBHHHIIBBBI11s8s")
_NAME = re.compile(r"[A-Z0-9_-]{1,8}(?:\.[A-Z0-9_-]{1,3})?", re.ASCII)
_NO_TIME = 0
_DATE = 0x2821  # 2000-01-01: the image of a boot is the same whenever it is made


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are made, and the file that follows them."""

    data: bytes
    file: str
    """Path of the file; empty behind the last one."""


class TooBig(ValueError):
    """The files do not fit a FAT16 file system."""


def layout(files: Mapping[str, int], volume_id: int) -> list[Gap]:
    """The parts of a file system that holds the files.

    Args:
        files: size of each by its path, such as `EFI/BOOT/BOOTX64.EFI`.
        volume_id: 32 bits.

    Raises:
        TooBig: they do not fit.
        ValueError: a name is not in the short form.
    """
    return _Volume(files, volume_id).gaps()


@dataclass(slots=True)
class _Folder:
    files: dict[str, tuple[int, int]]
    """First cluster and size of each."""
    folders: dict[str, _Folder]
    cluster: int = 0


class _Volume:
    def __init__(self, files: Mapping[str, int], volume_id: int) -> None:
        self._files = files
        self._id = volume_id
        self._root = _Folder({}, {})
        self._all: list[_Folder] = []
        for path in files:
            self._folder(path.split("/")[:-1])
            if not all(map(_NAME.fullmatch, path.split("/"))):
                raise ValueError(f"{path!r} is no path of short names")
        self._cluster = self._cluster_size()
        self._chains: list[int] = []  # of each run of clusters, how many
        for number, folder in enumerate(self._all):
            folder.cluster = _FIRST_CLUSTER + number
        self._chains += [1] * len(self._all)
        at = _FIRST_CLUSTER + len(self._all)
        for path, size in files.items():
            *parts, name = path.split("/")
            count = -(-size // self._cluster)
            self._folder(parts).files[name] = (at if count else 0, size)
            self._chains.append(count)
            at += count
        self._clusters = max(_LEAST_CLUSTERS, at - _FIRST_CLUSTER)
        self._fat_sectors = -(-(self._clusters + _FIRST_CLUSTER) * 2 // SECTOR)

    def _folder(self, parts: Sequence[str]) -> _Folder:
        found = self._root
        for part in parts:
            if part not in found.folders:
                found.folders[part] = _Folder({}, {})
                self._all.append(found.folders[part])
            found = found.folders[part]
        return found

    def _cluster_size(self) -> int:
        for power in range(7):
            size = SECTOR << power
            if len(self._all) + sum(-(-file // size) for file in self._files.values()) <= _MOST_CLUSTERS:
                return size
        raise TooBig(f"{sum(self._files.values())} bytes of files do not fit a boot image of at most {MOST} bytes")

    def gaps(self) -> list[Gap]:
        data = self._boot_sector() + _TABLES * self._table() + self._entries(self._root, None).ljust(_ROOT_ENTRIES * _ENTRY, b"\0")
        for folder in self._all:
            parent = next(each for each in (self._root, *self._all) if folder in each.folders.values())
            data += self._entries(folder, parent).ljust(self._cluster, b"\0")
        found = []
        for path, size in self._files.items():
            if size:
                found.append(Gap(data, path))
                data = bytes(-size % self._cluster)
        used = sum(self._chains)
        return [*found, Gap(data + bytes((self._clusters - used) * self._cluster), "")]

    def _boot_sector(self) -> bytes:
        sectors = _RESERVED + _TABLES * self._fat_sectors + _ROOT_ENTRIES * _ENTRY // SECTOR + self._clusters * self._cluster // SECTOR
        small = sectors if sectors < 1 << 16 else 0
        head = _BOOT.pack(
            b"\xeb\x3c\x90",
            b"METALD  ",
            SECTOR,
            self._cluster // SECTOR,
            _RESERVED,
            _TABLES,
            _ROOT_ENTRIES,
            small,
            _MEDIA,
            self._fat_sectors,
            63,
            255,
            0,
            0 if small else sectors,
            0x80,
            0,
            0x29,
            self._id & 0xFFFFFFFF,
            b"NO NAME    ",
            b"FAT16   ",
        )
        return head.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"

    def _table(self) -> bytes:
        table = [0xFF00 | _MEDIA, _END]
        for count in self._chains:
            first = len(table)
            table += [*range(first + 1, first + count), _END] if count else []
        return struct.pack(f"<{len(table)}H", *table).ljust(self._fat_sectors * SECTOR, b"\0")

    def _entries(self, folder: _Folder, parent: _Folder | None) -> bytes:
        found = b""
        if parent is not None:
            found += _entry(b".".ljust(11), _DIRECTORY, folder.cluster, 0) + _entry(b"..".ljust(11), _DIRECTORY, parent.cluster, 0)
        for name, child in folder.folders.items():
            found += _entry(_short(name), _DIRECTORY, child.cluster, 0)
        for name, (cluster, size) in folder.files.items():
            found += _entry(_short(name), _ARCHIVE, cluster, size)
        if len(found) > (_ROOT_ENTRIES * _ENTRY if parent is None else self._cluster):
            raise TooBig("a folder of the boot image has too many files")
        return found


def _short(name: str) -> bytes:
    base, _, extension = name.partition(".")
    return base.encode().ljust(8) + extension.encode().ljust(3)


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return name + struct.pack("<BBBHHHHHHHI", attributes, 0, 0, _NO_TIME, _DATE, _DATE, 0, _NO_TIME, _DATE, cluster, size)
