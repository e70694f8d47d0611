"""What the doctor says when real servers serve clients over wires that are bad, and clients that give up.

Nothing here tells it anything: the events are those of the servers.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from metald.boot.doctor import Doctor
from metald.boot.doctor.doctor import Report
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.boot.tftp import transfer
from metald.config import Settings
from metald.model import Event, Node, now
from metald.sim.tftp import Client, fetch
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.tftp_site import Site

_CONFIGURATION = f"pxelinux.cfg/01-{MAC.replace(':', '-')}"

Eats = Callable[[bytes, Client], bool]
"""Whether a wire eats a datagram on its way to a client."""


def report(fleet: Fleet, node: Node) -> Report:
    """What the doctor says an hour later."""
    time = now() - timedelta(hours=1)
    doctor = Doctor(fleet, Settings())
    (found,) = doctor.of_node(node.uuid, [Event(type=kind, node_uuid=uuid, data=data, time=time) for kind, uuid, data in fleet.events])
    doctor.close()
    return found


async def bad_wire(address: tuple[str, int], client: Client, eats: Eats) -> None:
    """Run a client behind a wire that eats datagrams, until it has the file or nothing came for a while."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for datagram in client.begin(loop.time()):
            sock.sendto(datagram, address)
        while not client.done:
            try:
                async with asyncio.timeout(1.0):
                    datagram, peer = await loop.sock_recvfrom(sock, 65536)
            except TimeoutError:
                return
            if not eats(datagram, client):
                for answer in client.receive(datagram, loop.time()):
                    sock.sendto(answer, peer)


def _short_path(datagram: bytes, _client: Client) -> bool:
    return len(datagram) + 28 > 1450


def _lossy(dice: random.Random) -> Eats:
    return lambda _, client: client.size > 100_000 or dice.random() < 0.2


def _dead(_datagram: bytes, client: Client) -> bool:
    return client.size > 100_000


@pytest.mark.parametrize(
    ("options", "eats", "cause", "words"),
    [
        ({"blksize": 1468}, _short_path, "mtu", "Datagrams of 1500 bytes do not arrive"),
        ({"blksize": 1468, "windowsize": 8}, _short_path, "mtu", "Datagrams of 1500 bytes do not arrive"),
        ({"blksize": 1408}, _lossy(random.Random(3)), "loss", "The network loses datagrams"),
        ({"blksize": 1408}, _dead, "silent", "fell silent in the middle of big.efi"),
    ],
)
async def test_bad_wires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], eats: Eats, cause: str, words: str
) -> None:
    monkeypatch.setattr(transfer, "_FIRST_TIMEOUT", 0.02)
    monkeypatch.setattr(transfer, "_LEAST_TIMEOUT", 0.02)
    site = Site(tmp_path)
    await site.server.start()
    try:
        node = site.fleet.boot(site.fleet.add(MAC))
        await fetch(site.address, _CONFIGURATION, blksize=1408)
        await bad_wire(site.address, Client("big.efi", **options), eats)
        await site.fleet.event("node.tftp", "big.efi")
        found = report(site.fleet, node)
        assert (found.diagnosis.cause, words in found.diagnosis.likely) == (cause, True), found.diagnosis
        last = found.attempt.files[-1]
        assert (last.blksize, last.windowsize) == (options["blksize"], options.get("windowsize", 1))
        assert last.retransmits
    finally:
        await site.server.close()


async def test_firmware_that_gives_up(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.server.start()
    try:
        node = site.fleet.boot(site.fleet.add(MAC))
        await fetch(site.address, _CONFIGURATION)
        await fetch(site.address, "nothing.efi")
        await site.fleet.event("node.tftp", "nothing.efi")
        assert report(site.fleet, node).diagnosis.cause == "no-such-file"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(b"\0\1big.efi\0octet\0blksize\x001408\0", site.address)
            _, peer = await asyncio.get_running_loop().sock_recvfrom(sock, 2048)
            sock.sendto(b"\0\5\0\0Too large\0", peer)
            await site.fleet.event("node.tftp", "big.efi")
        found = report(site.fleet, node).diagnosis
        assert found.cause == "gave-up"
        assert "Too large" in found.likely
    finally:
        await site.server.close()


async def test_over_http(tmp_path: Path) -> None:
    fleet = Fleet()
    settings = boot_settings(tmp_path, http_stall_timeout=0.3)
    server = BootHttp(fleet, BootFiles(fleet, settings), settings)
    (tmp_path / "ramdisk/initramfs").write_bytes(bytes(32 << 20))
    await server.start()
    try:
        port = server.addresses[0][1]
        base = f"http://127.0.0.1:{port}"
        node = fleet.boot(fleet.add(MAC))
        place = f"/boot/{node.uuid}/{node.driver_internal_info['boot_token']}"
        async with aiohttp.ClientSession() as web, web.get(f"{base}/boot/ipxe?mac={MAC}") as answer:
            assert answer.status == 200
        loop = asyncio.get_running_loop()
        for ending, cause in ((False, "stalled"), (True, "gave-up")):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, f"GET {place}/initramfs HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await loop.sock_recv(client, 1000)
                if ending:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                await _http_events(fleet, 1)
            found = report(fleet, node)
            assert found.diagnosis.cause == cause, found.diagnosis
            last = found.attempt.files[-1]
            assert (last.by, last.status) == ("http", 200)
            assert last.bytes < 32 << 20
            fleet.events[:] = [each for each in fleet.events if not each[2].get("file", "").endswith("initramfs")]
    finally:
        await server.close()


async def _http_events(fleet: Fleet, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(data.get("file", "").endswith("initramfs") for kind, _, data in fleet.events if kind == "node.http") < count:
            fleet.told.clear()
            await fleet.told.wait()
