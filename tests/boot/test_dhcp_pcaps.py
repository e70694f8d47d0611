"""What real firmware and a real DHCP server said to each other, taken off the wire.

QEMU 7.2 and dnsmasq 2.90 of Debian 12, whole conversations: OVMF's PXE and the iPXE that it loads, OVMF's HTTP boot and the iPXE that it
loads, and the iPXE of a network card under SeaBIOS.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from metald.boot.dhcp import packet
from metald.boot.dhcp.answer import SERVER_PORT, Answers, BootFile
from metald.boot.dhcp.leases import Leases, parse_range
from metald.boot.dhcp.machine import Machine, machine
from metald.boot.dhcp.overhear import Overhearing
from metald.boot.dhcp.packet import Kind, Option, Packet
from metald.boot.files import BootFiles
from metald.config import Dhcp, Settings
from tests.support.boot_fleet import MAC, Fleet

FOLDER = Path(__file__).parent / "pcaps"
UUID = "12345678-9abc-4def-8123-456789abcdef"
SERVER = IPv4Address("10.9.0.1")
MACHINES = {
    "ovmf-pxe-ipxe": [("pxe", "UEFI x86-64", "x86_64"), ("ipxe", "UEFI x86-64", "x86_64")],
    "ovmf-http": [("http", "UEFI x86-64 HTTP", "x86_64"), ("ipxe", "UEFI x86-64", "x86_64")],
    "seabios-ipxe": [("ipxe", "BIOS", "bios")],
}


def frames(name: str) -> Iterator[bytes]:
    """The IPv4 packets of a capture (libpcap's classic format, little-endian, Ethernet)."""
    data = (FOLDER / f"{name}.pcap").read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1"
    at = 24
    while at < len(data):
        size = struct.unpack_from("<I", data, at + 8)[0]
        yield data[at + 30 : at + 16 + size]
        at += 16 + size


def datagrams(name: str) -> list[bytes]:
    return [frame[(frame[0] & 0xF) * 4 + 8 : int.from_bytes(frame[2:4], "big")] for frame in frames(name)]


def requests(name: str) -> list[Packet]:
    return [found for found in map(packet.parse, datagrams(name)) if found.op == packet.REQUEST]


@pytest.mark.parametrize("name", MACHINES)
def test_everything_is_read_and_written_again(name: str) -> None:
    found = [packet.parse(data) for data in datagrams(name)]
    assert {(each.op, each.mac) for each in found} == {(packet.REQUEST, MAC), (packet.REPLY, MAC)}
    for each, data in zip(found, datagrams(name), strict=True):
        assert packet.parse(packet.encode(each)) == each
        # The head is the same byte for byte; of the options dnsmasq's come in another order.
        assert packet.encode(each)[:236] == data[:236]


@pytest.mark.parametrize("name", MACHINES)
def test_who_asks(name: str) -> None:
    seen: list[tuple[str, str, str]] = []
    for each in requests(name):
        asker = machine(each)
        assert asker is not None
        assert asker.id == UUID  # firmware and iPXE tell it in the same order
        who = (asker.firmware, asker.architecture, asker.family)
        if who not in seen:
            seen.append(who)
    assert seen == MACHINES[name]


def boot_file(asker: Machine, own: IPv4Address) -> BootFile | str:
    return BootFile(own, f"http://{own}/x" if asker.firmware in ("http", "ipxe") else "ipxe.efi")


@pytest.mark.parametrize("name", MACHINES)
def test_our_own_server_answers_them_as_dnsmasq_did(name: str) -> None:
    leases = Leases([parse_range("10.9.0.50-10.9.0.99/24 via 10.9.0.1")], 3600)
    answers = Answers(boot_file, lambda _: (True, True), leases)
    theirs: Packet | None = None
    own: IPv4Address | None = None
    for each in map(packet.parse, datagrams(name)):
        if each.op == packet.REPLY:
            theirs = each
            continue
        # A machine asks for what it was offered; here that is our address.
        wanted = {**each.options, Option.ADDRESS: own.packed} if own and Option.ADDRESS in each.options else each.options
        answer = answers.answer(replace(each, options=wanted), SERVER, SERVER_PORT, 1000.0)
        assert answer is not None
        assert answer.error == ""
        reply = answer.reply
        assert reply is not None
        assert reply.kind == (Kind.OFFER if each.kind == Kind.DISCOVER else Kind.ACK)
        own = reply.yours
        assert own in leases.ranges[0]
        asker = machine(each)
        assert asker is not None
        assert (Option.VENDOR_CLASS in reply.options) == (asker.firmware in ("pxe", "http"))
        if asker.firmware == "http":
            assert reply.options[Option.VENDOR_CLASS] == b"HTTPClient"
        assert reply.options[Option.MACHINE] == each.options[Option.MACHINE]
        if theirs is not None and theirs.transaction == each.transaction:
            same = ("hardware", "transaction", "flags")
            assert all(getattr(reply, field) == getattr(theirs, field) for field in same)
            assert {Option.NETMASK, Option.SERVER, Option.LEASE_TIME, Option.RENEWAL} <= set(reply.options) & set(theirs.options)


@pytest.mark.parametrize("name", MACHINES)
def test_overheard_the_doctor_knows_all_of_it(name: str) -> None:
    fleet = Fleet()
    fleet.boot(fleet.add(MAC))
    settings = Settings(dhcp=Dhcp(watch=["none"]))
    ear = Overhearing(fleet, BootFiles(fleet, settings), settings)
    for frame in frames(name):
        ear.heard(frame)
    told = [data for _, _, data in fleet.events]
    assert [data["firmware"] for data in told if "asked" in data and data["asked"] == "request"] == [who[0] for who in MACHINES[name]]
    answers = [data for data in told if "answer" in data]
    assert {(data["server"], data["client"]) for data in answers} == {("10.9.0.1", "10.9.0.58")}
    if name == "ovmf-pxe-ipxe":
        assert answers[0]["file"] == "ipxe.efi"
