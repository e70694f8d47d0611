"""Partition tables as bytes: GUID partition tables (UEFI specification 2.10, section 5.3) and the four entries of an MBR.

Pure code: bytes in, bytes out. The deploy steps read the first sectors of a disk, decide here, and write back what
`Table.render` or `Mbr.render` returns. A table is only ever written whole: both headers, both entry arrays, checksums.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass, field, replace

MIB = 1 << 20
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
"""EFI system partition."""
BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
"""GRUB's core on GPT disks that BIOS machines boot."""
LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""Linux file system data."""

_HEADER = struct.Struct("<8s4sIII QQQQ 16s QIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_SIGNATURE = b"EFI PART"
_LARGEST_ARRAY = MIB


class TableError(ValueError):
    """The bytes are no sound partition table, or the change does not fit. The text is for users."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; sectors count from the disk's start, `last` belongs to it."""

    number: int
    type: uuid.UUID
    guid: uuid.UUID
    first: int
    last: int
    name: str = ""
    attributes: int = 0

    @property
    def sectors(self) -> int:
        """How many sectors it has."""
        return self.last - self.first + 1


def head_bytes(sector: int) -> int:
    """How much of a disk's start `Table.parse` needs for an ordinary table of 128 entries."""
    return 2 * sector + max(128 * 128, sector)


@dataclass(frozen=True, slots=True)
class Table:
    """A GUID partition table on a disk of `sectors` sectors."""

    sector: int
    sectors: int
    guid: uuid.UUID
    partitions: tuple[Partition, ...]
    entries: int = 128
    entry_size: int = 128
    first_usable: int = 0
    mbr: bytes = field(default=b"", repr=False)
    repaired: bool = False
    """Whether what was read did not fit this disk (a backup elsewhere, another size), so that it should be written again."""

    @classmethod
    def create(cls, sectors: int, guid: uuid.UUID, *, sector: int = 512) -> Table:
        """An empty table."""
        return cls(sector, sectors, guid, ())

    @classmethod
    def parse(cls, head: bytes, sectors: int, *, sector: int = 512) -> Table | None:
        """Read the primary table from a disk's first bytes. None when there is none.

        Raises:
            TableError: there is one, but it is broken.
        """
        raw = head[sector : sector + _HEADER.size]
        if len(raw) < _HEADER.size or not raw.startswith(_SIGNATURE):
            return None
        _, _, size, crc, _, here, other, first_usable, last_usable, guid, start, entries, entry_size, array_crc = _HEADER.unpack(raw)
        header = head[sector : sector + size]
        if not _HEADER.size <= size <= sector or _checksum(header[:16] + bytes(4) + header[20:]) != crc:
            raise TableError("the GUID partition table's header is damaged (wrong checksum)")
        if here != 1 or entry_size < _ENTRY.size or entry_size % 8 or not 0 < entries * entry_size <= _LARGEST_ARRAY:
            raise TableError("the GUID partition table's header holds impossible numbers")
        array = head[start * sector : start * sector + entries * entry_size]
        if len(array) < entries * entry_size or _checksum(array) != array_crc:
            raise TableError("the GUID partition table's entries are damaged (wrong checksum)")
        found = tuple(_parse_entries(array, entry_size))
        table = cls(sector, sectors, uuid.UUID(bytes_le=guid), found, entries, entry_size, first_usable, head[:sector])
        table._check(found)
        moved = other != sectors - 1 or last_usable != table.last_usable or start != 2
        return replace(table, repaired=moved)

    @property
    def array_sectors(self) -> int:
        """Sectors of one entry array."""
        return -(-self.entries * self.entry_size // self.sector)

    @property
    def lowest(self) -> int:
        """The first sector that a partition may use."""
        return max(self.first_usable, 2 + self.array_sectors)

    @property
    def last_usable(self) -> int:
        """The last sector that a partition may use."""
        return self.sectors - self.array_sectors - 2

    def _check(self, partitions: tuple[Partition, ...]) -> None:
        at = 2 + self.array_sectors - 1
        for one in sorted(partitions, key=lambda one: one.first):
            if not at < one.first <= one.last:
                raise TableError(f"partition {one.number} overlaps another or the table itself")
            if one.last > self.last_usable:
                raise TableError(f"partition {one.number} ends behind the end of the disk")
            at = one.last

    def named(self, name: str) -> Partition | None:
        """The partition with this label."""
        return next((one for one in self.partitions if one.name == name), None)

    def typed(self, kind: uuid.UUID) -> Partition | None:
        """The first partition of a type."""
        return next((one for one in self.partitions if one.type == kind), None)

    def with_partition(self, partition: Partition) -> Table:
        """The table with one partition more.

        Raises:
            TableError: the place is taken, outside the disk, or the number is used.
        """
        if not 1 <= partition.number <= self.entries or any(one.number == partition.number for one in self.partitions):
            raise TableError(f"there is no free entry {partition.number} in the partition table")
        changed = (*self.partitions, partition)
        self._check(changed)
        return replace(self, partitions=tuple(sorted(changed, key=lambda one: one.number)), repaired=True)

    def append(self, kind: uuid.UUID, guid: uuid.UUID, size: int, name: str) -> tuple[Table, Partition]:
        """Add a partition of `size` bytes at the very end of the disk, aligned to 1 MiB.

        Raises:
            TableError: no room behind the last partition, or no free entry.
        """
        used = {one.number for one in self.partitions}
        number = next((number for number in range(1, self.entries + 1) if number not in used), 0)
        if not number:
            raise TableError(f"all {self.entries} entries of the partition table are used")
        align = max(1, MIB // self.sector)
        first = (self.last_usable + 1 - -(-size // self.sector)) // align * align
        end = max((one.last for one in self.partitions), default=self.lowest - 1)
        if first <= end:
            raise TableError(f"behind the last partition are {max(0, self.last_usable - end) * self.sector} bytes, {size} are needed")
        partition = Partition(number, kind, guid, first, first - 1 + -(-size // self.sector), name)
        return self.with_partition(partition), partition

    def render(self) -> list[tuple[int, bytes]]:
        """What to write: pairs of a byte offset and bytes. The backup comes first, so that one sound table is there at any moment."""
        array = bytearray(self.entries * self.entry_size)
        for one in self.partitions:
            label = one.name.encode("utf-16-le")[:72].ljust(72, b"\0")
            raw = _ENTRY.pack(one.type.bytes_le, one.guid.bytes_le, one.first, one.last, one.attributes, label)
            array[(one.number - 1) * self.entry_size : (one.number - 1) * self.entry_size + _ENTRY.size] = raw
        backup_array = self.sectors - 1 - self.array_sectors
        padded = bytes(array).ljust(self.array_sectors * self.sector, b"\0")
        backup = padded + self._header(bytes(array), self.sectors - 1, 1, backup_array)
        primary = self._protective_mbr() + self._header(bytes(array), 1, self.sectors - 1, 2) + padded
        return [(backup_array * self.sector, backup), (0, primary)]

    def _header(self, array: bytes, here: int, other: int, start: int) -> bytes:
        def pack(crc: int) -> bytes:
            return _HEADER.pack(
                *(_SIGNATURE, b"\0\0\1\0", _HEADER.size, crc, 0, here, other, self.lowest, self.last_usable),
                *(self.guid.bytes_le, start, self.entries, self.entry_size, _checksum(array)),
            )

        return pack(_checksum(pack(0))).ljust(self.sector, b"\0")

    def _protective_mbr(self) -> bytes:
        mbr = bytearray(self.mbr.ljust(self.sector, b"\0")[: self.sector])
        protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(self.sectors - 1, 0xFFFFFFFF))
        slots = range(446, 510, 16)
        at = next((slot for slot in slots if mbr[slot + 4] == 0xEE), 446)
        bootable = mbr[at]
        mbr[at : at + 16] = protective
        mbr[at] = bootable
        mbr[510:512] = b"\x55\xaa"
        return bytes(mbr)


def _parse_entries(array: bytes, size: int) -> list[Partition]:
    found = []
    for index in range(len(array) // size):
        kind, guid, first, last, attributes, label = _ENTRY.unpack_from(array, index * size)
        if any(kind):
            name = label.decode("utf-16-le", "replace").split("\0", 1)[0]
            found.append(Partition(index + 1, uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=guid), first, last, name, attributes))
    return found


def _checksum(data: bytes) -> int:
    return zlib.crc32(data)


@dataclass(frozen=True, slots=True)
class Mbr:
    """The four primary entries of a master boot record: (boot flag, type, first sector, sectors) or None."""

    raw: bytes
    entries: tuple[tuple[int, int, int, int] | None, ...]

    @classmethod
    def parse(cls, head: bytes) -> Mbr | None:
        """Read a disk's first sector; None when it does not end in 55 AA or has no entry."""
        if len(head) < 512 or head[510:512] != b"\x55\xaa":
            return None
        found: list[tuple[int, int, int, int] | None] = []
        for at in range(446, 510, 16):
            flag, kind, first, count = head[at], head[at + 4], *struct.unpack_from("<II", head, at + 8)
            if flag not in (0, 0x80):
                return None  # the boot sector of a file system
            found.append((flag, kind, first, count) if kind and count else None)
        return cls(head[:512], tuple(found)) if any(found) else None

    @property
    def boots(self) -> bool:
        """Whether there is boot code at all."""
        return any(self.raw[:440])

    def append(self, sectors: int, size: int, *, sector: int = 512) -> tuple[bytes, int, int]:
        """Add a Linux partition of `size` bytes at the end of the disk.

        Returns:
            The new first sector, the partition's number and its first sector.

        Raises:
            TableError: all four entries are used, or there is no room.
        """
        free = next((index for index, entry in enumerate(self.entries) if entry is None), None)
        if free is None:
            raise TableError("all four primary partitions of the MBR are used")
        count = -(-size // sector)
        align = max(1, MIB // sector)
        first = (min(sectors, 1 << 32) - count) // align * align
        end = max((entry[2] + entry[3] for entry in self.entries if entry), default=1)
        if first < end:
            raise TableError(f"behind the last partition are {max(0, sectors - end) * sector} bytes, {size} are needed")
        changed = bytearray(self.raw)
        changed[446 + 16 * free : 462 + 16 * free] = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first, count)
        return bytes(changed), free + 1, first
