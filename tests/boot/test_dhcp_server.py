"""The DHCP server of our own: what it tells, what outlives it, noise, and real clients on a private wire."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from metald.boot import dhcp
from metald.boot.dhcp import RenderedDhcp
from metald.boot.dhcp.own import LEASES, DhcpServer
from metald.boot.dhcp.packet import Kind, Option, Packet, encode, parse
from metald.boot.dhcp.wire import Arrival
from metald.boot.files import BootFiles
from metald.config import Boot, ConfigError, Dhcp, Settings
from metald.model import Node, Port
from tests.support.boot_fleet import MAC, Fleet

OWN = IPv4Address("10.9.0.1")
BOOT = {"tftp_listen": "0.0.0.0:69", "http_listen": "0.0.0.0:6386"}
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003016", Option.ARCHITECTURE: b"\0\7"}


HTTP = {Option.VENDOR_CLASS: b"HTTPClient", Option.ARCHITECTURE: b"\0\x10"}


class Sock:
    """What a DhcpSocket is to the server."""

    def __init__(self) -> None:
        self.sent: list[tuple[Packet, tuple[str, int]]] = []
        self.broken = False

    def send(self, data: bytes, to: tuple[str, int], own: IPv4Address) -> None:
        assert own == OWN
        if self.broken:
            raise OSError(101, "Network is unreachable")
        self.sent.append((parse(data), to))


class Site:
    """A server without sockets."""

    def __init__(self, folder: Path, provider: str = "lease", boot: dict[str, str] | None = None, **given: Any) -> None:
        self.fleet = Fleet()
        ranges = ["10.9.0.50-10.9.0.60/24"] if provider == "lease" else []
        settings = Settings(
            state_dir=str(folder),
            boot=Boot(**(BOOT if boot is None else boot)),
            dhcp=Dhcp(**{"provider": provider, "interfaces": ["none"], "ranges": ranges} | given),
        )
        self.settings = settings
        self.server = DhcpServer(self.fleet, BootFiles(self.fleet, settings), settings)
        self.sock = Sock()

    def ask(self, kind: Kind, options: dict[int, bytes] | None = None, port: int = 67, mac: str = MAC, **fields: Any) -> Packet | None:
        before = len(self.sock.sent)
        request = Packet(1, 9, bytes.fromhex(mac.replace(":", "")), kind, options or {}, **fields)
        self.hear(encode(request), port)
        return self.sock.sent[-1][0] if len(self.sock.sent) > before else None

    def hear(self, data: bytes, port: int = 67) -> None:
        self.server._arrived(self.sock, Arrival(data, ("10.9.0.77", 1234), OWN), port)  # type: ignore[arg-type]


async def test_a_node_is_told_and_told_of(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = site.fleet.add(MAC)
    offer = site.ask(Kind.DISCOVER, PXE)
    assert offer is not None
    assert (offer.file, offer.server) == (b"ipxe.efi", OWN)
    site.ask(Kind.DISCOVER, PXE)
    ack = site.ask(Kind.REQUEST, {**PXE, Option.ADDRESS: offer.yours.packed})
    assert ack is not None
    assert ack.kind == Kind.ACK
    # The same again is not told again.
    assert [(seen, data["asked"], data["answer"]) for _, seen, data in site.fleet.events] == [
        (node.uuid, "discover", "offer"),
        (node.uuid, "request", "ack"),
    ]
    address = str(offer.yours)
    assert site.fleet.events[0] == (
        "node.dhcp",
        node.uuid,
        {
            "client": address,
            "mac": MAC,
            "file": "ipxe.efi",
            "asked": "discover",
            "answer": "offer",
            "firmware": "pxe",
            "architecture": "UEFI x86-64",
            "machine_id": False,
        },
    )
    assert site.server._files.clients.known(address) == node.uuid
    await site.server.close()
    assert json.loads((tmp_path / LEASES).read_text())[0]["mac"] == MAC
    provider = dhcp.provider(site.settings)
    assert isinstance(provider, RenderedDhcp)
    ports = [Port(node_uuid=node.uuid, address=mac) for mac in (MAC, "52:54:00:00:00:99")]
    assert await provider.addresses(ports) == {MAC: address}
    await provider.bind(Node(driver="ipmi"), ports)
    again = Site(tmp_path)
    again.fleet.add(MAC)
    again.server._interfaces = ()
    await again.server.start()
    leases = again.server.leases
    assert leases is not None
    assert str(leases.address_of(MAC, 0.0)) == address


async def test_strangers(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert site.ask(Kind.DISCOVER, PXE) is None
    assert site.fleet.events == [("boot.unknown", None, {"client": "0.0.0.0", "mac": [MAC]})]
    open_ = Site(tmp_path, answer_unknown=True)
    assert open_.ask(Kind.DISCOVER, PXE) is not None
    await open_.server.close()


async def test_as_a_proxy(tmp_path: Path) -> None:
    site = Site(tmp_path, "proxy")
    site.fleet.add(MAC)
    assert site.server.leases is None
    offer = site.ask(Kind.DISCOVER, PXE)
    assert offer is not None
    assert int(offer.yours) == 0
    ack = site.ask(Kind.REQUEST, PXE, port=4011, client=IPv4Address("10.9.0.77"))
    assert ack is not None
    assert site.sock.sent[-1][1] == ("10.9.0.77", 1234)
    assert site.ask(Kind.REQUEST, PXE) is None
    ipxe = site.ask(Kind.DISCOVER, {**PXE, Option.IPXE: b""})
    assert ipxe is not None
    assert ipxe.file == b"http://10.9.0.1:6386/boot.ipxe"
    http = site.ask(Kind.DISCOVER, {Option.VENDOR_CLASS: b"HTTPClient", Option.ARCHITECTURE: b"\0\x10"})
    assert http is not None
    assert http.file == b"http://10.9.0.1:6386/ipxe.efi"
    assert await dhcp.provider(site.settings).addresses([]) == {}
    await site.server.close()
    assert not (tmp_path / LEASES).exists()


@pytest.mark.parametrize(
    ("interface", "pxe", "http", "ipxe"),
    [
        ("pxe", b"bootx64.efi", None, b"bootx64.efi"),
        ("http", None, b"http://10.9.0.1:6386/uefi/52-54-00-12-34-56/boot.img", None),
        ("http-ipxe", None, b"http://10.9.0.1:6386/ipxe.efi", b"http://10.9.0.1:6386/boot.ipxe"),
    ],
)
async def test_what_the_nodes_boot_interface_loads(
    tmp_path: Path, interface: str, pxe: bytes | None, http: bytes | None, ipxe: bytes | None
) -> None:
    site = Site(tmp_path, "proxy")
    node = site.fleet.boot(site.fleet.add(MAC, boot_interface=interface))
    for options, wanted in ((PXE, pxe), (HTTP, http), ({**PXE, Option.IPXE: b""}, ipxe)):
        offer = site.ask(Kind.DISCOVER, options)
        assert (offer.file if offer else None) == wanted
        if wanted is None:
            assert f"boot interface {interface} boots by" in site.fleet.events[-1][2]["error"]
    site.fleet.change(node, driver_internal_info={})
    if interface == "http":
        told = len(site.fleet.events)
        assert site.ask(Kind.DISCOVER, HTTP) is None  # it boots from its disk, which is no error
        assert len(site.fleet.events) == told


async def test_ipxe_script_by_tftp_and_a_tftp_server_elsewhere(tmp_path: Path) -> None:
    site = Site(tmp_path, "proxy", {"tftp_address": "10.9.0.5"}, ipxe_script="tftp")
    site.fleet.add(MAC)
    offer = site.ask(Kind.DISCOVER, {**PXE, Option.IPXE: b""})
    assert offer is not None
    assert (offer.file, str(offer.server), offer.options[Option.TFTP_SERVER]) == (b"boot.ipxe", "10.9.0.5", b"10.9.0.5")


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (PXE, "there is no TFTP server"),
        ({**PXE, Option.ARCHITECTURE: b"\0\6"}, "no boot loader for the architecture UEFI IA32"),
        ({**PXE, Option.IPXE: b""}, "no boot HTTP server"),
    ],
)
async def test_nothing_to_load_is_told_of(tmp_path: Path, options: dict[int, bytes], cause: str) -> None:
    site = Site(tmp_path, "proxy", {})
    site.fleet.add(MAC)
    assert site.ask(Kind.DISCOVER, options) is None
    assert cause in site.fleet.events[-1][2]["error"]


async def test_noise_and_a_network_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    site.fleet.add(MAC)
    for data in (b"", b"x" * 300, os.urandom(500)):
        site.hear(data)
    site.sock.broken = True
    assert site.ask(Kind.DISCOVER, PXE) is None
    assert "cannot be answered" in caplog.text

    def fail(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(site.server._answers, "answer", fail)
    site.ask(Kind.DISCOVER, PXE)
    assert "defect" in caplog.text
    assert site.sock.sent == []


async def test_a_flood_is_told_of_once_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metald.boot.dhcp.once._MOST", 10)
    site = Site(tmp_path)
    for turn in range(3):
        for number in range(100):
            site.ask(Kind.DISCOVER, PXE, mac=f"52:54:00:00:{turn:02x}:{number:02x}")
            site.ask(Kind.DISCOVER, PXE, mac=f"52:54:00:00:{turn:02x}:{number:02x}")
    assert len(site.fleet.events) == 300
    assert len(site.server._once._said) == 10


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"provider": "proxy"}, "dhcp.interfaces"),
        ({"provider": "lease", "interfaces": ["x"]}, "dhcp.ranges"),
        ({"provider": "lease", "interfaces": ["x"], "ranges": ["1.1.1.1-1.1.1.9/24", "1.1.1.10-1.1.1.11/24"]}, "twice"),
        ({"provider": "lease", "interfaces": ["x"], "ranges": ["1.1.1.1"]}, "FIRST-LAST"),
    ],
)
def test_settings_that_are_wrong(given: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        dhcp.provider(Settings(dhcp=Dhcp(**given)))


def test_addresses_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"boot\.tftp_address"):
        dhcp.provider(Settings(boot=Boot(tftp_address="fd00::1"), dhcp=Dhcp(provider="proxy", interfaces=["x"])))
    with pytest.raises(ConfigError, match=r"dhcp\.dns"):
        Site(tmp_path, dns=["x"])


async def test_a_file_of_leases_that_is_broken_and_an_interface_that_is_not_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for text in ("{", "{}", "[1]", '[{"address": "10.9.0.50"}]'):
        (tmp_path / LEASES).write_text(text)
        with pytest.raises(ConfigError, match="Remove the file"):
            await site.server.start()
    (tmp_path / LEASES).unlink()
    with pytest.raises(OSError, match=r"No such device|no interface"):
        await site.server.start()


async def on_the_wire(folder: Path, mode: str, *command: str) -> tuple[str, list[tuple[str, bool, dict[str, Any]]]]:
    argv = ["unshare", "-n", sys.executable, "-m", "tests.support.dhcp_wire", str(folder), mode, *command]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(90):
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    line = next(line for line in text.splitlines() if line.startswith("[["))
    return text, json.loads(line)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("busybox"), reason="needs root and busybox")
async def test_a_client_of_the_field(tmp_path: Path) -> None:
    """busybox asks for an address, gets it with all there is, and gives it back."""
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\necho "$1 ip=$ip mask=$mask router=$router dns=$dns lease=$lease file=$boot_file tftp=$tftp server=$siaddr"\n'
    )
    script.chmod(0o755)
    client = ["busybox", "udhcpc", "-i", "client", "-f", "-q", "-n", "-R", "-V", "PXEClient:Arch:00000:UNDI:002001", "-s", str(script)]
    text, events = await on_the_wire(tmp_path, "lease", *client)
    bound = next(line for line in text.splitlines() if line.startswith("bound"))
    address = bound.split()[1].removeprefix("ip=")
    rest = "mask=24 router=10.9.0.1 dns=10.9.0.1 lease=3600 file=undionly.kpxe tftp=10.9.0.1 server=10.9.0.1"
    assert bound == f"bound ip={address} {rest}"
    assert [(kind, ours, data["answer"], data["client"]) for kind, ours, data in events] == [
        ("node.dhcp", True, "offer", address),
        ("node.dhcp", True, "ack", address),
    ]
