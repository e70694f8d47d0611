"""What is on a disk, where its config drive goes, and what to wipe: decided from the bytes the ramdisk read."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from metald.drivers.root_device import Disk
from metald.drivers.ssh.partitions import ESP, LINUX_DATA, MIB, Mbr, Partition, Table, TableError, head_bytes
from metald.drivers.ssh.ramdisk import Ramdisk
from metald.errors import DeployError
from metald.model import Node

DRIVE_SIZE = 64 * MIB
"""The partition of a config drive."""

_LABEL = "config-2"
_MBR_ESP = 0xEF
_END = 128 << 10
"""How much of a partition's end may hold signatures (RAID superblocks version 0.9 and 1.0)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A disk and its partition table."""

    disk: Disk
    table: Table | None
    mbr: Mbr | None
    has_boot_code: bool

    @property
    def sectors(self) -> int:
        """How many sectors the disk has."""
        return self.disk.size // self.disk.sector

    def esp(self) -> Partition | None:
        """The EFI system partition."""
        if self.table is not None:
            return self.table.typed(ESP)
        for index, entry in enumerate(self.mbr.entries if self.mbr else ()):
            if entry and entry[1] == _MBR_ESP:
                return Partition(index + 1, ESP, uuid.UUID(int=0), entry[2], entry[2] + entry[3] - 1)
        return None


async def read_layout(ramdisk: Ramdisk, disk: Disk) -> Layout:
    """Look at a disk. A damaged table counts as none here; it is an error where one is needed."""
    head = await ramdisk.read(disk, [(0, head_bytes(disk.sector))])
    try:
        table = Table.parse(head, disk.size // disk.sector, sector=disk.sector)
    except TableError:
        table = None
    return Layout(disk, table, None if table else Mbr.parse(head), any(head[:440]) and head[510:512] == b"\x55\xaa")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the config drive goes."""

    number: int
    offset: int
    """Bytes from the disk's start."""
    size: int
    changes: list[tuple[int, bytes]]
    """What to write so that the partition is there; empty when it is."""


def drive_place(layout: Layout, node: Node, made: int | None) -> Place:
    """The partition labelled config-2, or a new one in the last 64 MiB of the disk.

    Args:
        made: offset of the partition that an earlier try of this step made on a disk with an MBR, which knows no labels.

    Raises:
        DeployError: no partition table, no room, or no free entry.
    """
    sector = layout.disk.sector
    try:
        if layout.table is not None:
            found, changes = layout.table.named(_LABEL), []
            if found is None:
                guid = uuid.uuid5(layout.table.guid, f"{_LABEL}:{node.uuid}")
                table, found = layout.table.append(LINUX_DATA, guid, DRIVE_SIZE, _LABEL)
                changes = table.render()
            return Place(found.number, found.first * sector, found.sectors * sector, changes)
        if layout.mbr is not None:
            for index, entry in enumerate(layout.mbr.entries):
                if entry and entry[2] * sector == made:
                    return Place(index + 1, made, entry[3] * sector, [])
            head, number, first = layout.mbr.append(layout.sectors, DRIVE_SIZE, sector=sector)
            return Place(number, first * sector, DRIVE_SIZE, [(0, head)])
    except TableError as error:
        raise DeployError(f"Node {node.label}: there is no place for the config drive on {layout.disk}: {error}.") from None
    raise DeployError(
        f"Node {node.label}: the image on {layout.disk} has no partition table that can take a config drive.",
        remedy="Use an image with a GPT or MBR made for this disk's sectors, or deploy without a config drive.",
    )


def erase_ranges(layout: Layout) -> list[tuple[int, int]]:
    """What to overwrite so that nothing on the disk is recognised again, as (offset, length).

    The partitions come first and the table last, so that an erasure that is cut off finds them again.
    """
    size, sector = layout.disk.size, layout.disk.sector
    parts = [(one.first, one.sectors) for one in layout.table.partitions] if layout.table else []
    parts += [(entry[2], entry[3]) for entry in layout.mbr.entries if entry] if layout.mbr else []
    ranges: list[tuple[int, int]] = []
    for first, count in parts:
        start, end = first * sector, min((first + count) * sector, size)
        if start < end:
            ranges.append((start, min(MIB, end - start)))
            ranges.append((max(start, end - _END), min(_END, end - start)))
    tail = max(0, size - MIB)
    return [*ranges, (tail, size - tail), (0, min(MIB, size))]
