"""DHCP datagrams: what is written is read, whatever bytes come are a packet or malformed, and firmware's habits."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.dhcp import packet
from metald.boot.dhcp.machine import machine
from metald.boot.dhcp.packet import Kind, Malformed, Option, Packet
from tests.support.boot_fleet import MAC

HARDWARE = bytes.fromhex(MAC.replace(":", ""))
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
OPTIONS = st.dictionaries(st.integers(1, 254).filter(lambda code: code not in (52, 53)), st.binary(max_size=600), max_size=5)
NAMES = st.binary(max_size=60).filter(lambda name: b"\0" not in name)
PACKETS = st.builds(
    Packet,
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=16),
    st.sampled_from([0, *Kind]),
    OPTIONS,
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 255),
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
    NAMES,
    NAMES,
)


@given(PACKETS)
def test_what_is_written_is_read(made: Packet) -> None:
    data = packet.encode(made)
    assert packet.parse(data) == made
    assert len(data) >= 300


@given(st.binary(max_size=700) | st.binary(max_size=300).map(lambda tail: packet.encode(Packet(1, 1, HARDWARE, 1))[:240] + tail))
def test_whatever_comes(data: bytes) -> None:
    try:
        found = packet.parse(data)
    except Malformed:
        return
    packet.parse(packet.encode(found))
    machine(found)


@given(PACKETS, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 2000))
def test_broken_datagrams(made: Packet, flips: list[tuple[int, int]], end: int) -> None:
    data = bytearray(packet.encode(made))
    for at, value in flips:
        data[at % len(data)] = value
    try:
        found = packet.parse(bytes(data[: 1 + end % len(data)]))
    except Malformed:
        return
    machine(found)


def raw(options: bytes, *, name: bytes = b"", file: bytes = b"") -> bytes:
    head = packet.encode(Packet(1, 7, HARDWARE, 0))[:44]
    return head + name.ljust(64, b"\0") + file.ljust(128, b"\0") + b"\x63\x82\x53\x63" + options


def test_options_go_on_in_file_and_name() -> None:
    found = packet.parse(raw(b"\x35\1\1\x34\1\3\x0c\2ab\xff", file=b"\x0c\2cd\xff", name=b"\x0c\1e\xff"))
    assert (found.kind, found.options, found.file, found.server_name) == (1, {12: b"abcde"}, b"", b"")
    # A second option 52 in there is no reason to go round.
    assert packet.parse(raw(b"\x34\1\1\xff", file=b"\x34\1\3\xff", name=b"n")).server_name == b"n"


@pytest.mark.parametrize("tail", [b"\x35\1\1", b"\x35\1\1\x0c", b"\x35\1\1\x0c\x20ab", b"\0\0\x35\1\1\0"])
def test_sloppy_ends(tail: bytes) -> None:
    assert packet.parse(raw(tail)).kind == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"\1" * 239, raw(b"\xff")[:239], raw(b"\xff").replace(b"\x63\x82", b"\x63\x81"), b"\3" + raw(b"\xff")[1:], raw(bytes(4097))],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        packet.parse(data)


def test_a_name_that_is_too_long_for_its_field_stands_in_the_option() -> None:
    url = b"http://" + b"x" * 200
    found = packet.parse(packet.encode(Packet(2, 1, HARDWARE, 2, {Option.BOOT_FILE: url}, file=url)))
    assert (found.file, found.options[Option.BOOT_FILE]) == (b"", url)


def test_options_within_options() -> None:
    assert packet.encapsulate({6: b"\x08"}) == b"\6\1\x08\xff"
    assert packet.encapsulated(b"\6\1\x08\xff") == {6: b"\x08"}


@pytest.mark.parametrize(
    ("options", "firmware", "architecture", "family"),
    [
        ({60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0"}, "pxe", "BIOS", "bios"),
        ({60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7"}, "pxe", "UEFI x86-64", "x86_64"),
        ({60: b"PXEClient:Arch:00007:UNDI:003016"}, "pxe", "UEFI x86-64", "x86_64"),
        ({60: b"PXEClient:Arch:00009:UNDI:003016", 93: b"\0\x09"}, "pxe", "UEFI x86-64", "x86_64"),
        ({60: b"PXEClient:Arch:00011:UNDI:003000", 93: b"\0\x0b"}, "pxe", "UEFI ARM64", "arm64"),
        ({60: b"PXEClient:Arch:00006:UNDI:003016", 93: b"\0\6"}, "pxe", "UEFI IA32", ""),
        ({60: b"PXEClient:Arch:00099:UNDI:003016", 93: b"\0\x63"}, "pxe", "number 99", ""),
        ({60: b"HTTPClient:Arch:00016:UNDI:003001", 93: b"\0\x10"}, "http", "UEFI x86-64 HTTP", "x86_64"),
        ({60: b"HTTPClient:Arch:00019:UNDI:003001", 93: b"\0\x13"}, "http", "UEFI ARM64 HTTP", "arm64"),
        ({60: b"PXEClient:Arch:00000:UNDI:002001", 77: b"iPXE", 175: b"\1\1\1", 93: b"\0\0"}, "ipxe", "BIOS", "bios"),
        ({60: b"udhcp 1.35.0"}, "system", "", "bios"),
        ({}, "system", "", "bios"),
        ({60: b"PXEClient:Arch:0000000000:UNDI"}, "pxe", "", "bios"),
    ],
)
def test_who_asks(options: dict[int, bytes], firmware: str, architecture: str, family: str) -> None:
    found = machine(Packet(1, 1, HARDWARE, 1, options))
    assert found is not None
    assert (found.mac, found.firmware, found.architecture, found.family) == (MAC, firmware, architecture, family)
    assert found.id == ""


@pytest.mark.parametrize("made", [Packet(1, 1, b""), Packet(1, 1, bytes(6)), Packet(1, 1, HARDWARE, hardware_type=32)])
def test_cards_that_are_not_ethernet(made: Packet) -> None:
    assert made.mac is None
    assert machine(made) is None
