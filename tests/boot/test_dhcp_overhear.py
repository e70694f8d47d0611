"""What is overheard of other servers' DHCP: what is told of it, and real packet sockets on a private wire."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.dhcp import packet
from metald.boot.dhcp.overhear import Overhearing, _payload
from metald.boot.dhcp.packet import Kind, Option, Packet
from metald.boot.files import BootFiles
from metald.config import Dhcp, Settings
from tests.support.boot_fleet import MAC, Fleet

HARDWARE = bytes.fromhex(MAC.replace(":", ""))
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003016", Option.ARCHITECTURE: b"\0\7", Option.MACHINE: bytes(1) + bytes(range(16))}
SERVER = IPv4Address("10.9.0.1")


class Ear:
    """An Overhearing without sockets."""

    def __init__(self, provider: str = "none") -> None:
        self.fleet = Fleet()
        settings = Settings(dhcp=Dhcp(provider=provider, watch=["none"], interfaces=["none"], ranges=["10.9.0.5-10.9.0.9/24"]))  # type: ignore[arg-type]
        self.files = BootFiles(self.fleet, settings)
        self.ear = Overhearing(self.fleet, self.files, settings)

    def hear(self, found: Packet) -> None:
        self.ear.heard(ipv4(packet.encode(found)))

    @property
    def told(self) -> list[dict[str, Any]]:
        return [data for _, _, data in self.fleet.events]


def ipv4(payload: bytes, protocol: int = 17) -> bytes:
    size = 28 + len(payload)
    head = bytes((0x45, 0)) + size.to_bytes(2, "big") + bytes(4) + bytes((64, protocol)) + bytes(10)
    return head + b"\0\x44\0\x43" + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload


def ask(kind: Kind, options: dict[int, bytes] | None = None) -> Packet:
    return Packet(packet.REQUEST, 7, HARDWARE, kind, PXE if options is None else options)


def answer(kind: Kind, server: IPv4Address = SERVER, file: bytes = b"ipxe.efi") -> Packet:
    return Packet(packet.REPLY, 7, HARDWARE, kind, {Option.SERVER: server.packed}, yours=IPv4Address("10.9.0.77"), file=file)


def test_a_whole_conversation() -> None:
    ear = Ear()
    node = ear.fleet.boot(ear.fleet.add(MAC))
    ear.hear(ask(Kind.DISCOVER))
    ear.hear(ask(Kind.DISCOVER))  # the same again is no news
    ear.hear(answer(Kind.OFFER))
    ear.hear(ask(Kind.REQUEST, {**PXE, Option.SERVER: SERVER.packed}))
    ear.hear(answer(Kind.ACK))
    asked = {"mac": MAC, "firmware": "pxe", "architecture": "UEFI x86-64", "overheard": True, "count": 1}
    own = {**asked, "machine_id": True, "machine": "03020100-0504-0706-0809-0a0b0c0d0e0f"}
    told = {**asked, "server": "10.9.0.1", "file": "ipxe.efi", "client": "10.9.0.77"}
    assert ear.told == [
        {**own, "asked": "discover"},
        {**told, "answer": "offer"},
        {**own, "asked": "request", "server": "10.9.0.1"},
        {**told, "answer": "ack"},
    ]
    assert {uuid for _, uuid, _ in ear.fleet.events} == {node.uuid}
    assert ear.files.clients.known("10.9.0.77") == node.uuid


def test_running_systems_are_no_news_but_a_ramdisk_is() -> None:
    ear = Ear()
    node = ear.fleet.add(MAC)
    ear.hear(ask(Kind.DISCOVER, {}))
    ear.hear(answer(Kind.ACK))
    assert ear.told == []
    ear.fleet.boot(node)
    ear.hear(ask(Kind.DISCOVER, {}))
    assert [each["firmware"] for each in ear.told] == ["system"]


def test_strangers_that_boot_are_told_of() -> None:
    ear = Ear()
    ear.hear(ask(Kind.DISCOVER))
    assert [(uuid, data["mac"]) for _, uuid, data in ear.fleet.events] == [(None, MAC)]


def test_beside_our_own_server_only_others_answers_are_news() -> None:
    ear = Ear("lease")
    ear.fleet.boot(ear.fleet.add(MAC))
    ear.hear(ask(Kind.DISCOVER))
    assert ear.told == []
    ear.hear(answer(Kind.OFFER, IPv4Address("10.9.0.66"), b"pxelinux.0"))
    assert [(each["server"], each["file"], each["firmware"]) for each in ear.told] == [("10.9.0.66", "pxelinux.0", "pxe")]


@pytest.mark.parametrize(
    "data", [b"", b"\x45", bytes(20), ipv4(b"x" * 10), ipv4(bytes(300)), b"\x60" + bytes(60), ipv4(packet.encode(ask(Kind.INFORM)), 6)]
)
def test_noise(data: bytes) -> None:
    ear = Ear()
    ear.ear.heard(data)
    assert ear.told == []


@given(st.binary(max_size=700))
def test_whatever_is_heard(data: bytes) -> None:
    ear = Ear()
    for each in (data, ipv4(data), ipv4(packet.encode(ask(Kind.DISCOVER))[:240] + data)):
        ear.ear.heard(each)
    assert len(_payload(data)) <= len(data)


async def test_an_interface_that_is_not_there() -> None:
    ear = Ear()
    with pytest.raises(OSError, match=r"No such device|not permitted"):
        await ear.ear.start()
    assert ear.ear._sockets == []


async def test_beside_our_own_server_it_listens_of_itself_as_far_as_it_may(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for provider, interfaces in (("proxy", ("none",)), ("lease", ("none",)), ("none", ()), ("dnsmasq", ())):
        settings = Settings(dhcp=Dhcp(provider=provider, interfaces=["none"], ranges=["10.9.0.5-10.9.0.9/24"]))  # type: ignore[arg-type]
        fleet = Fleet()
        ear = Overhearing(fleet, BootFiles(fleet, settings), settings)
        assert ear._interfaces == interfaces
        await ear.start()  # there is no such interface, which the server itself will say
        assert ear._sockets == []
        assert ("other servers are not looked for on none" in caplog.text) == bool(interfaces)
        caplog.clear()


async def test_on_a_wire(tmp_path: Path) -> None:
    """Of everything on a bridge, the kernel lets DHCP through alone."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    private = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    process = await asyncio.create_subprocess_exec(
        *private, sys.executable, "-m", "tests.support.overheard", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    if process.returncode and b"denied" in err:
        pytest.skip("no network namespace can be made here")
    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert [(each["mac"], each["asked"], each["firmware"]) for each in told] == [(MAC, "discover", "pxe")]
