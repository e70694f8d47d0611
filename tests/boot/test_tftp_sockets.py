"""The TFTP server and the sockets of its host: limits, offload that is not there or fails, full buffers, ports in use, and its end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.boot.tftp import packet, transfer
from metald.boot.tftp.packet import Request
from metald.sim.tftp import fetch
from tests.support.tftp_site import Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site(tmp_path).serving() as made:
        yield made


async def test_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path, tftp_transfers=3, tftp_transfers_per_client=2)
    await site.server.start()
    await fetch(site.address, "undionly.kpxe")
    held = []
    try:
        for address in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, 0))
            sock.sendto(packet.encode(Request("undionly.kpxe", options={"tsize": "0"})), site.address)
            held.append(sock)
        async with asyncio.timeout(10):
            while "boot.tftp_transfers" not in caplog.text:
                await asyncio.sleep(0.01)
        assert site.server.transfers == 3
        assert [session.arrival.peer[0] for session in site.server._sessions.values()] == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
    finally:
        for sock in held:
            sock.close()
        await site.server.close()
    assert site.server.transfers == 0


async def test_the_answer_comes_from_the_address_that_was_asked(tmp_path: Path) -> None:
    site = Site(tmp_path, tftp_listen="0.0.0.0:0, [::]:0")
    await site.server.start()
    try:
        (_, port4), (_, port6) = site.server.addresses
        client = await fetch(("127.0.0.7", port4), "boot.ipxe")
        assert client.server[0] == "127.0.0.7"
        assert b"http://127.0.0.7:6386/" in client.data
        assert (await fetch(("127.0.0.8", port4), "none.efi")).server == ("127.0.0.8", port4)
        client = await fetch(("::1", port6), "big.efi", blksize=65464, windowsize=4)
        assert bytes(client.data) == site.big
        assert (await fetch(("::1", port6), "none.efi")).error.startswith("1 ")
        await site.idle()
    finally:
        await site.server.close()


async def test_without_segmentation_offload(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metald.boot.tftp.wire._UDP_SEGMENT", 9999)
    client = await fetch(site.address, "big.efi", blksize=1468, windowsize=16)
    assert bytes(client.data) == site.big


async def test_offload_that_fails_while_sending(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from metald.boot.tftp.wire import Path as WirePath

    def fail(self: WirePath, data: bytes, segment: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(WirePath, "_send_segmented", fail)
    client = await fetch(site.address, "big.efi", blksize=1468, windowsize=16)
    assert bytes(client.data) == site.big


@pytest.mark.parametrize("offload", [True, False])
async def test_a_socket_that_is_full_or_broken(site: Site, monkeypatch: pytest.MonkeyPatch, offload: bool) -> None:
    """A window that does not fit is sent again later; a way that is gone ends the transfer."""
    from metald.boot.tftp.wire import Path as WirePath

    causes = iter([BlockingIOError(11, "full"), OSError(105, "No buffer space available"), OSError(113, "No route to host")])

    def fail(self: WirePath, data: bytes, segment: int) -> None:
        raise next(causes)

    monkeypatch.setattr(transfer, "_LEAST_TIMEOUT", 0.01)
    monkeypatch.setattr(WirePath, "_send_segmented" if offload else "_send_singly", fail)
    if not offload:
        monkeypatch.setattr("metald.boot.tftp.wire._UDP_SEGMENT", 9999)
    client = asyncio.create_task(fetch(site.address, "big.efi", blksize=1468, windowsize=16))
    _, facts = await site.fleet.event("node.tftp", "big.efi")
    assert facts["error"] == "no way to the client: No route to host"
    client.cancel()


async def test_a_defect_ends_one_transfer(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from metald.boot.tftp.transfer import Transfer

    def fail(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(Transfer, "receive", fail)
    client = asyncio.create_task(fetch(site.address, "big.efi", blksize=1468))
    assert (await site.fleet.event("node.tftp", "big.efi"))[1]["error"] == "internal error"
    assert "defect" in caplog.text
    client.cancel()


@pytest.mark.parametrize("number", [24, 101])
async def test_no_socket_for_another_transfer(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("metald.boot.tftp.wire.Path", fail)
        client = asyncio.create_task(fetch(site.address, "undionly.kpxe", timeout=0.3))
        if number == 24:
            async with asyncio.timeout(10):
                while "no file descriptor left" not in caplog.text:
                    await asyncio.sleep(0.01)
        else:
            assert "no way to the client" in (await site.fleet.event("node.tftp", "undionly.kpxe"))[1]["error"]
    # The client's next try finds room.
    assert (await client).done


async def test_a_broadcast_request_is_not_answered(tmp_path: Path) -> None:
    site = Site(tmp_path, tftp_listen="0.0.0.0:0")
    await site.server.start()
    try:
        port = site.address[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setblocking(False)
            sock.sendto(packet.encode(Request("none.efi")), ("127.255.255.255", port))
            assert (await fetch(("127.0.0.1", port), "boot.ipxe")).done
            with pytest.raises(BlockingIOError):
                sock.recv(2048)
        await site.idle()
    finally:
        await site.server.close()


async def test_close_comes_twice_or_without_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.server.close()
    await site.server.start()
    await site.server.close()
    await site.server.close()


async def test_an_address_in_use_is_an_error(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path, tftp_listen=f"127.0.0.1:0, 127.0.0.1:{site.address[1]}")
    with pytest.raises(OSError, match="in use"):
        await other.server.start()
    assert other.server.addresses == []


async def test_close_ends_what_runs(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.server.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sock.sendto(packet.encode(Request("big.efi")), site.address)
        await asyncio.get_running_loop().sock_recv(sock, 2048)
        await site.server.close()
    assert site.fleet.events[-1][2]["error"] == "the server stopped"
