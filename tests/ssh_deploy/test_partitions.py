"""Partition tables: what is written is read again, by us and by sfdisk; damage is noticed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.root_device import Disk
from metald.drivers.ssh.layout import DRIVE_SIZE, Layout, drive_place, erase_ranges
from metald.drivers.ssh.partitions import ESP, LINUX_DATA, MIB, Mbr, Partition, Table, TableError, head_bytes
from metald.errors import DeployError
from metald.model import Node

GUID = uuid.UUID(int=5)
NODE = Node(driver="ipmi", name="n1")


def on_disk(table: Table) -> bytearray:
    disk = bytearray(table.sectors * table.sector)
    for offset, piece in table.render():
        disk[offset : offset + len(piece)] = piece
    return disk


@st.composite
def tables(draw: st.DrawFn) -> Table:
    sector = draw(st.sampled_from([512, 4096]))
    table = Table.create(draw(st.integers(600, 4000)), draw(st.uuids()), sector=sector)
    at = table.lowest
    for number in draw(st.lists(st.integers(1, 128), max_size=6, unique=True)):
        first = at + draw(st.integers(0, 50))
        last = first + draw(st.integers(0, 50))
        name = draw(st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF), max_size=36))
        table = table.with_partition(Partition(number, draw(st.sampled_from([ESP, LINUX_DATA])), draw(st.uuids()), first, last, name))
        at = last + 1
    return table


@given(tables())
def test_what_is_written_is_read_again(table: Table) -> None:
    disk = on_disk(table)
    again = Table.parse(bytes(disk[: head_bytes(table.sector)]), table.sectors, sector=table.sector)
    assert again is not None
    assert (again.partitions, again.guid, again.repaired) == (table.partitions, table.guid, False)
    # the backup is sound on its own: its header is in the last sector and checks out against its own array
    assert disk[-table.sector :].startswith(b"EFI PART")


@given(tables(), st.integers(1, 5000))
def test_a_table_on_a_larger_disk_moves_its_backup_to_the_end(table: Table, more: int) -> None:
    head = bytes(on_disk(table)[: head_bytes(table.sector)])
    grown = Table.parse(head, table.sectors + more, sector=table.sector)
    assert grown is not None
    assert grown.repaired
    assert grown.partitions == table.partitions
    again = Table.parse(bytes(on_disk(grown)[: head_bytes(table.sector)]), table.sectors + more, sector=table.sector)
    assert again is not None
    assert not again.repaired


@given(tables(), st.data())
def test_damage_is_noticed_or_harmless(table: Table, data: st.DataObject) -> None:
    head = on_disk(table)[: head_bytes(table.sector)]
    place = data.draw(st.integers(table.sector, len(head) - 1))
    head[place] ^= data.draw(st.integers(1, 255))
    try:
        again = Table.parse(bytes(head), table.sectors, sector=table.sector)
    except TableError:
        return
    assert again is None or again.partitions == table.partitions


@given(st.binary(max_size=600), st.integers(100, 10000))
def test_no_bytes_break_the_readers(data: bytes, sectors: int) -> None:
    whole = data.ljust(34 * 512, data[:1] or b"\0")
    for head in (data, whole, whole[:512] + b"EFI PART" + data + whole):
        with contextlib.suppress(TableError):
            Table.parse(head, sectors)
        Mbr.parse(head)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_partition_at_the_end(sector: int) -> None:
    table = Table.create(100 * MIB // sector, GUID, sector=sector)
    changed, added = table.append(LINUX_DATA, GUID, DRIVE_SIZE, "config-2")
    assert changed.named("config-2") == added
    assert added.sectors * sector == DRIVE_SIZE
    assert added.first * sector % MIB == 0
    with pytest.raises(TableError, match="are needed"):
        changed.append(LINUX_DATA, GUID, DRIVE_SIZE, "another")


def test_overlaps_numbers_and_ends_are_checked() -> None:
    table = Table.create(1000, GUID).with_partition(Partition(1, ESP, GUID, 100, 200))
    for wrong in (
        Partition(1, ESP, GUID, 300, 400),
        Partition(2, ESP, GUID, 150, 300),
        Partition(2, ESP, GUID, 10, 50),
        Partition(2, ESP, GUID, 300, 990),
        Partition(200, ESP, GUID, 300, 400),
    ):
        with pytest.raises(TableError):
            table.with_partition(wrong)


def test_a_disk_that_is_too_small_for_its_table() -> None:
    table = Table.create(1000, GUID).with_partition(Partition(1, ESP, GUID, 100, 900))
    with pytest.raises(TableError, match="behind the end"):
        Table.parse(bytes(on_disk(table)[: head_bytes(512)]), 800)


def test_sfdisk_agrees(tmp_path: Path) -> None:
    table = Table.create(100 * MIB // 512, GUID).with_partition(Partition(3, ESP, uuid.uuid4(), 2048, 4095, "first"))
    table, _ = table.append(LINUX_DATA, uuid.uuid4(), 10 * MIB, "config-2")
    path = tmp_path / "disk"
    path.write_bytes(on_disk(table))
    done = subprocess.run(["sfdisk", "--json", path], check=True, capture_output=True, text=True)
    assert "corrupt" not in done.stderr
    seen = json.loads(done.stdout)["partitiontable"]
    assert [(one["start"], one["size"], one["name"]) for one in seen["partitions"]] == [
        (one.first, one.sectors, one.name) for one in sorted(table.partitions, key=lambda one: one.number)
    ]
    verified = subprocess.run(["sfdisk", "--verify", path], check=False, capture_output=True, text=True)
    assert "No errors detected" in verified.stdout


def mbr(*entries: tuple[int, int, int]) -> bytes:
    head = bytearray(512)
    head[510:] = b"\x55\xaa"
    for index, (kind, first, count) in enumerate(entries):
        head[450 + 16 * index] = kind
        head[454 + 16 * index : 462 + 16 * index] = first.to_bytes(4, "little") + count.to_bytes(4, "little")
    return bytes(head)


def layout(head: bytes, size: int = 100 * MIB) -> Layout:
    found = Table.parse(head, size // 512) if len(head) > 512 else None
    return Layout(Disk("/dev/sda", size), found, None if found else Mbr.parse(head), False)


def test_a_config_drive_on_an_mbr_is_found_again() -> None:
    place = drive_place(layout(mbr((0x83, 2048, 1000))), NODE, None)
    [(offset, head)] = place.changes
    assert (offset, place.number, place.size) == (0, 2, DRIVE_SIZE)
    again = drive_place(layout(head), NODE, place.offset)
    assert (again.number, again.offset, again.changes) == (2, place.offset, [])


@pytest.mark.parametrize(
    ("head", "size", "words"),
    [
        (mbr(*[(0x83, 2048 * n, 10) for n in range(1, 5)]), 100 * MIB, "all four"),
        (mbr((0x83, 2048, 100 * MIB // 512 - 4096)), 100 * MIB, "are needed"),
        (bytes(512), 100 * MIB, "no partition table"),
    ],
)
def test_no_place_for_a_config_drive(head: bytes, size: int, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        drive_place(layout(head, size), NODE, None)


@given(tables(), st.integers(0, 100))
def test_erasing_covers_table_and_partitions_and_stays_on_the_disk(table: Table, more: int) -> None:
    size = (table.sectors + more) * table.sector
    ranges = erase_ranges(Layout(Disk("/dev/sda", size, table.sector), table, None, False))
    assert all(offset >= 0 and length > 0 and offset + length <= size for offset, length in ranges)
    assert ranges[-1] == (0, min(MIB, size))
    assert ranges[-2][0] + ranges[-2][1] == size
    assert {one.first * table.sector for one in table.partitions} <= {offset for offset, _ in ranges}
