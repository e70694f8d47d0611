"""The TFTP server over real sockets: real clients, many at once, paths that climb, clients that vanish, and noise."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.boot.files import shown
from metald.boot.tftp import contents, packet, server, transfer
from metald.boot.tftp.packet import Ack, Error, Request
from metald.sim.tftp import fetch
from tests.support.boot_fleet import MAC
from tests.support.tftp_site import Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site(tmp_path).serving() as made:
        yield made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blksize": 1468},
        {"blksize": 65464, "windowsize": 64},
        {"blksize": 32000, "windowsize": 64},
        {"blksize": 1468, "windowsize": 64},
        {"blksize": 1428, "windowsize": 4, "tsize": 0},
        {"windowsize": 16},
        {"blksize": 100, "windowsize": 9},
    ],
)
async def test_a_file_arrives(site: Site, options: dict[str, int]) -> None:
    client = await fetch(site.address, "/big.efi", **options)
    assert client.error == ""
    assert bytes(client.data) == site.big
    assert set(client.agreed) == set(options)
    node, facts = await site.fleet.event("node.tftp", "big.efi")
    assert node is None
    assert facts["bytes"] == len(site.big)
    assert facts["blksize"] == options.get("blksize", 512)
    assert facts["client"] == "127.0.0.1"
    assert "error" not in facts


async def test_rendered_text(site: Site) -> None:
    client = await fetch(site.address, "boot.ipxe", blksize=1468)
    assert b"chain --replace --autofree http://127.0.0.1:6386/boot/ipxe?mac=" in client.data
    node = site.fleet.boot(site.fleet.add(MAC))
    client = await fetch(site.address, f"pxelinux.cfg/01-{MAC.replace(':', '-')}")
    assert node.driver_internal_info["boot_token"].encode() in client.data
    assert (await site.fleet.event("node.tftp", f"pxelinux.cfg/01-{MAC.replace(':', '-')}"))[0] == node.uuid
    # The address is the node's from then on.
    await fetch(site.address, "ramdisk/kernel")
    assert (await site.fleet.event("node.tftp", "ramdisk/kernel"))[0] == node.uuid


async def test_a_client_on_the_wire_is_known_by_its_mac(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node = site.fleet.add(MAC)
    monkeypatch.setattr(site.files.clients, "mac_of", lambda address: MAC)
    await fetch(site.address, "undionly.kpxe")
    assert (await site.fleet.event("node.tftp", "undionly.kpxe"))[0] == node.uuid


async def test_netascii(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await fetch(site.address, "boot.ipxe", mode="netascii", tsize=0)
    assert client.data.startswith(b"#!ipxe\r\n")
    assert int(client.agreed["tsize"]) == len(client.data)
    monkeypatch.setattr(server, "MAX_NETASCII", 1000)
    assert "octet" in (await fetch(site.address, "big.efi", mode="netascii")).error
    assert "4 " in (await fetch(site.address, "big.efi", mode="mail")).error


@pytest.mark.parametrize("name", ["../../etc/passwd", "/../../../../etc/passwd", "ipxe/../../../etc/passwd", "..\\..\\etc\\passwd"])
async def test_climbing_is_refused_and_told(site: Site, name: str) -> None:
    client = await fetch(site.address, name)
    assert client.error.startswith("2 ")
    assert client.server == site.address
    _, facts = await site.fleet.event("node.tftp", shown(name))
    assert "leaves the tree" in facts["error"]


async def test_what_is_not_there(site: Site) -> None:
    for name in ("/etc/passwd", "nothing.efi", "x\u00e9.efi"):
        assert (await fetch(site.address, name)).error.startswith("1 ")
    assert (await site.fleet.event("node.tftp", "nothing.efi"))[1]["error"] == "There is no such boot file. (error 1)"


async def test_writing_is_refused(site: Site) -> None:
    answer = await ask(site, packet.encode(Request("undionly.kpxe", write=True)))
    assert answer == Error(2, "This server is read-only.")
    assert "read-only" in (await site.fleet.event("node.tftp", "undionly.kpxe"))[1]["error"]


async def ask(site: Site, data: bytes) -> packet.Packet:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        await loop.sock_sendto(sock, data, site.address)
        async with asyncio.timeout(20):
            answer = await loop.sock_recv(sock, 2048)
            if answer[1] == packet.Opcode.OACK:
                sock.sendto(packet.encode(Error(0, "enough")), site.address)
    return packet.parse(answer)


async def test_malformed_requests_are_answered_once_and_errors_never(site: Site) -> None:
    assert await ask(site, b"\0\1nothing") == Error(4, "Illegal TFTP operation: request without name or mode.")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for data in (b"", b"\0", b"\0\5\0\1x\0", b"\0\4\0\1", b"\0\3\0\1x", b"\0\6a\x001\0", b"\xff" * 1500, b"\0\1" + b"a" * 1400):
            sock.sendto(data, site.address)
        client = await fetch(site.address, "undionly.kpxe")
        assert client.done
        assert packet.parse(sock.recv(2048)).code == 4  # type: ignore[union-attr]
        with pytest.raises(BlockingIOError):
            sock.recv(2048)


async def test_noise_does_not_stop_it(site: Site) -> None:
    noise = random.Random(5)
    seeds = [
        packet.encode(Request("big.efi", "octet", {"blksize": "8", "windowsize": "65535", "timeout": "1"})),
        packet.encode(Ack(1)),
        b"\0\1x\0octet\0",
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(2000):
            data = bytearray(noise.choice(seeds))
            for _ in range(noise.randrange(4)):
                data[noise.randrange(len(data))] = noise.randrange(256)
            sock.sendto(bytes(data[: noise.randrange(len(data) + 1)]), site.address)
            if noise.random() < 0.05:
                await asyncio.sleep(0)
    client = await fetch(site.address, "big.efi", blksize=1468)
    assert bytes(client.data) == site.big


async def test_two_hundred_at_once(site: Site) -> None:
    clients = await asyncio.gather(
        *(fetch(site.address, "big.efi", timeout=10.0, blksize=1468, windowsize=1 + number % 16) for number in range(200))
    )
    assert [client.error for client in clients if client.error] == []
    assert all(bytes(client.data) == site.big for client in clients)


async def test_a_file_is_read_once_and_again_when_it_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = contents._read
    monkeypatch.setattr(contents, "_read", lambda path: reads.append(path) or read(path))
    await asyncio.gather(*(fetch(site.address, "undionly.kpxe") for _ in range(10)))
    assert len(reads) == 1
    (site.folder / "ipxe/undionly.kpxe").write_bytes(b"new")
    assert (await fetch(site.address, "undionly.kpxe")).data == b"new"
    (site.folder / "ipxe/undionly.kpxe").unlink()
    assert (await fetch(site.address, "undionly.kpxe")).error.startswith("1 ")


async def test_what_is_kept_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "KEPT", 2 << 20)
    for number in range(4):
        (site.folder / f"ipxe/n{number}.efi").write_bytes(bytes([number]) * (1 << 20))
        assert (await fetch(site.address, f"n{number}.efi", blksize=65464)).data == bytes([number]) * (1 << 20)
    assert len(site.server._contents._kept) == 2
    monkeypatch.setattr(contents, "MAX_FILE", 1 << 19)
    assert "too large" in (await fetch(site.address, "n0.efi")).error


async def test_a_disk_that_fails_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(contents, "_read", fail)
    assert (await fetch(site.address, "undionly.kpxe")).error == "0 The file cannot be read."


async def test_clients_that_vanish_are_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_FIRST_TIMEOUT", 0.01)
    monkeypatch.setattr(transfer, "_LEAST_TIMEOUT", 0.01)
    await fetch(site.address, "undionly.kpxe")
    sockets = []
    for number in range(100):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(packet.encode(Request("undionly.kpxe", options={"blksize": "512"} if number % 2 else {})), site.address)
        sockets.append(sock)
    async with asyncio.timeout(20):
        while sum("fell silent" in data.get("error", "") for _, _, data in site.fleet.events) < 100:
            await asyncio.sleep(0.01)
    for sock in sockets:
        sock.close()
    assert site.server.transfers == 0


async def test_a_closed_port_ends_the_transfer_at_once(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(packet.encode(Request("big.efi", options={"blksize": "512"})), site.address)
    _, facts = await site.fleet.event("node.tftp", "big.efi")
    assert facts["error"] == "the client closed its port"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tsize": "0"}, {"probe": "size", "error": None}),
        ({"blksize": "512"}, {"probe": None, "error": "the client ended it: User aborted the transfer (error 8)"}),
    ],
)
async def test_a_client_that_aborts_is_told_of(site: Site, options: dict[str, str], told: dict[str, str | None]) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(packet.encode(Request("big.efi", options=options)), site.address)
        answer, peer = await loop.sock_recvfrom(sock, 2048)
        assert isinstance(packet.parse(answer), packet.OptionAck)
        assert peer != site.address
        sock.sendto(packet.encode(Error(8, "User aborted the transfer")), peer)
        _, facts = await site.fleet.event("node.tftp", "big.efi")
        assert {key: facts.get(key) for key in told} == told


async def test_a_repeated_request_is_one_transfer_and_a_new_one_replaces(site: Site) -> None:
    loop = asyncio.get_running_loop()
    await fetch(site.address, "undionly.kpxe")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        request = packet.encode(Request("undionly.kpxe"))
        sock.sendto(request, site.address)
        sock.sendto(request, site.address)
        first, peer = await loop.sock_recvfrom(sock, 2048)
        assert packet.parse(first).block == 1  # type: ignore[union-attr]
        sock.sendto(packet.encode(Ack(1)), peer)
        second, same = await loop.sock_recvfrom(sock, 2048)
        assert (packet.parse(second).block, same) == (2, peer)  # type: ignore[union-attr]
        assert site.server.transfers == 1
        sock.sendto(packet.encode(Request("ramdisk/kernel")), site.address)
        third, other = await loop.sock_recvfrom(sock, 2048)
        assert other != peer
        assert third[4:8] == b"KKKK"
        assert site.server.transfers == 1
        assert any(data.get("error") == "the client started over" for _, _, data in site.fleet.events)
        sock.sendto(packet.encode(Error(0)), other)
        await site.idle()


async def run(*argv: str, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(*argv, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


@pytest.mark.parametrize(
    "argv",
    [
        ["tftp", "-m", "binary", "127.0.0.1", "PORT", "-c", "get", "big.efi", "got"],
        ["tftp", "-4", "-v", "-m", "octet", "127.0.0.1", "PORT", "-c", "get", "/ipxe/big.efi", "got"],
        ["atftp", "-g", "-r", "big.efi", "-l", "got", "127.0.0.1", "PORT"],
        ["atftp", "--option", "blksize 1428", "--option", "windowsize 16", "-g", "-r", "big.efi", "-l", "got", "127.0.0.1", "PORT"],
        [
            "atftp",
            "--option",
            "windowsize 3",
            "--option",
            "tsize 0",
            "--option",
            "timeout 3",
            "-g",
            "-r",
            "big.efi",
            "-l",
            "got",
            "127.0.0.1",
            "PORT",
        ],
        ["curl", "-sS", "-o", "got", "tftp://127.0.0.1:PORT/big.efi"],
        ["curl", "-sS", "--tftp-blksize", "8000", "-o", "got", "tftp://127.0.0.1:PORT/big.efi"],
        ["curl", "-sS", "--tftp-no-options", "-o", "got", "tftp://127.0.0.1:PORT/big.efi"],
        ["busybox", "tftp", "-g", "-r", "big.efi", "-l", "got", "127.0.0.1", "PORT"],
        ["busybox", "tftp", "-b", "1468", "-g", "-r", "big.efi", "-l", "got", "127.0.0.1", "PORT"],
    ],
    ids=lambda argv: " ".join(argv)[:60],
)
async def test_clients_of_the_field(site: Site, tmp_path: Path, argv: list[str]) -> None:
    code, out = await run(*(arg.replace("PORT", str(site.address[1])) for arg in argv), cwd=tmp_path)
    assert code == 0, out
    assert (tmp_path / "got").read_bytes() == site.big
    _, facts = await site.fleet.event("node.tftp", "big.efi")
    assert facts["retransmits"] == 0
    assert "error" not in facts


async def test_clients_of_the_field_are_refused(site: Site, tmp_path: Path) -> None:
    _, out = await run("tftp", "127.0.0.1", str(site.address[1]), "-c", "get", "../../etc/passwd", "got", cwd=tmp_path)
    assert "Error code 2" in out
    (tmp_path / "new").write_text("x")
    code, out = await run("curl", "-sS", "-T", "new", f"tftp://127.0.0.1:{site.address[1]}/undionly.kpxe", cwd=tmp_path)
    assert code != 0
    assert (tmp_path / "ipxe/undionly.kpxe").read_bytes() == b"U" * 3000
