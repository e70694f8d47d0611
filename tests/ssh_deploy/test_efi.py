"""UEFI boot entries."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ssh import efi
from metald.drivers.ssh.partitions import ESP, Partition

PARTITION = Partition(2, ESP, uuid.UUID("d1a77a6c-5a23-4b27-9f1c-3f5a52a0a001"), 2048, 63487)


@pytest.mark.parametrize(
    ("files", "loader", "fallback"),
    [
        (["/EFI/BOOT/BOOTX64.EFI"], "/EFI/BOOT/BOOTX64.EFI", True),
        (["/EFI/BOOT/BOOTX64.EFI", "/EFI/debian/grubx64.efi", "/EFI/debian/shimx64.efi"], "/EFI/debian/shimx64.efi", True),
        (["/EFI/debian/grubx64.efi", "/EFI/debian/BOOTX64.CSV"], "/EFI/debian/grubx64.efi", False),
        (["/EFI/debian/fwupdx64.efi", "/other/grubx64.efi"], None, False),
        ([], None, False),
    ],
)
def test_chooses_a_loader(files: list[str], loader: str | None, fallback: bool) -> None:
    assert efi.choose_loader(files) == loader
    assert efi.has_fallback(files) is fallback


def test_a_load_option_as_efibootmgr_writes_it() -> None:
    option = efi.load_option("metald", PARTITION, "/EFI/BOOT/BOOTX64.EFI")
    expected = (
        "01000000"
        "5e00"
        "6d006500740061006c0064000000"
        "04012a00"
        "02000000"
        "0008000000000000"
        "00f0000000000000"
        "6c7aa7d1235a274b9f1c3f5a52a0a001"
        "0202"
        "04043000"
        "5c004500460049005c0042004f004f0054005c0042004f004f0054005800360034002e004500460049000000"
        "7fff0400"
    )
    assert option.hex() == expected
    assert efi.title_of(option) == "metald"
    assert efi.boots_partition(option, PARTITION.guid)


def variables(order: list[int], **titles: int) -> dict[str, bytes]:
    found = {
        f"Boot{number:04X}-{efi.GLOBAL}": b"\7\0\0\0" + efi.load_option(title, PARTITION, "/x.efi") for title, number in titles.items()
    }
    return {**found, efi.ORDER: b"\7\0\0\0" + b"".join(struct.pack("<H", one) for one in order)}


def test_a_new_entry_goes_first_and_a_second_deployment_replaces_it() -> None:
    option = efi.load_option("metald instance", PARTITION, "/EFI/BOOT/BOOTX64.EFI")
    have = variables([0, 3], pxe=0, disk=3)
    changes = efi.plan(have, "metald instance", option)
    assert changes == [
        (f"Boot0001-{efi.GLOBAL}", b"\7\0\0\0" + option),
        (efi.ORDER, b"\7\0\0\0" + struct.pack("<HHH", 1, 0, 3)),
    ]
    have.update(changes)
    assert efi.plan(have, "metald instance", option) == []
    other = efi.load_option("metald instance", PARTITION, "/EFI/debian/shimx64.efi")
    assert efi.plan(have, "metald instance", other) == [(f"Boot0001-{efi.GLOBAL}", b"\7\0\0\0" + other)]


@given(st.dictionaries(st.from_regex(rf"Boot[0-9A-F]{{4}}-{efi.GLOBAL}|{efi.ORDER}|BootCurrent-x", fullmatch=True), st.binary(max_size=99)))
def test_any_variables_lead_to_a_plan_that_is_done_once(have: dict[str, bytes]) -> None:
    option = efi.load_option("t", PARTITION, "/EFI/BOOT/BOOTX64.EFI")
    changes = efi.plan(have, "t", option)
    assert efi.plan({**have, **dict(changes)}, "t", option) == []
