"""Clients of the boot HTTP server that hang about, go away, or come by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

import aiohttp
import pytest

from metald.boot import http
from tests.support.boot_fleet import MAC
from tests.support.boot_site import Site, raw


async def text(web: aiohttp.ClientSession, url: str, status: int = 200, **kw: object) -> str:
    async with web.get(url, **kw) as answer:  # type: ignore[arg-type]
        assert answer.status == status
        return await answer.text()


async def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path) -> None:
    site = Site(tmp_path, http_stall_timeout=0.3)
    (tmp_path / "ramdisk/initramfs").write_bytes(bytes(32 << 20))
    await site.server.start()
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", site.port))
            await loop.sock_sendall(client, b"GET /ramdisk/initramfs HTTP/1.1\r\nHost: x\r\n\r\n")
            _, data = await site.fleet.event("node.http", "ramdisk/initramfs")
        assert data["error"] == "the client stalled"
        assert data["bytes"] < 32 << 20
    finally:
        await site.server.close()


async def test_a_client_that_asks_nothing_is_shown_out(tmp_path: Path) -> None:
    site = Site(tmp_path, http_stall_timeout=0.2)
    await site.server.start()
    try:
        for data in (b"", b"GET /boot.ipxe HTTP/1.1\r\nHo"):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(data)
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
    finally:
        await site.server.close()


async def test_a_body_that_does_not_come_is_not_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LINGER", 0.1)
    site = Site(tmp_path, http_stall_timeout=0.2)
    node = site.fleet.boot(site.fleet.add(MAC))
    await site.server.start()
    try:
        token = node.driver_internal_info["boot_token"]
        head = f"POST /boot/{node.uuid}/{token}/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nport="
        assert (await raw(site, head.encode())).startswith(b"HTTP/1.1 408 ")
        assert (await site.fleet.event("node.http", f"boot/{node.uuid}/ready"))[1]["error"] == "too slow"
    finally:
        await site.server.close()


async def test_a_request_that_runs_when_the_server_stops_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STOP_GRACE", 0.1)
    site = Site(tmp_path)
    node = site.fleet.boot(site.fleet.add(MAC))
    entered = asyncio.Event()

    async def hang(*_: object) -> None:
        entered.set()
        await asyncio.Event().wait()

    site.fleet.ramdisk_called = hang  # type: ignore[method-assign]
    await site.server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    token = node.driver_internal_info["boot_token"]
    writer.write(f"POST /boot/{node.uuid}/{token}/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    await entered.wait()
    await site.server.close()
    assert (await site.fleet.event("node.http", f"boot/{node.uuid}/ready"))[1]["error"] == "the server stopped"
    writer.close()


async def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(site: Site) -> None:
    path = site.folder / "ramdisk/initramfs"
    path.write_bytes(bytes(64 << 20))
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /ramdisk/initramfs HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    os.truncate(path, 100)
    async with asyncio.timeout(20):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(64 << 20)
    assert (await site.fleet.event("node.http", "ramdisk/initramfs"))[1]["error"]
    writer.close()


async def test_a_client_that_aborts_is_told_of(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "ramdisk/initramfs").write_bytes(bytes(64 << 20))
    await site.server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /ramdisk/initramfs HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        _, data = await site.fleet.event("node.http", "ramdisk/initramfs")
        assert data["error"].startswith("the client went away")
        assert 0 <= data["bytes"] < 64 << 20
    finally:
        await site.server.close()


async def test_connections_over_the_limit_wait_for_their_turn(tmp_path: Path) -> None:
    site = Site(tmp_path, http_connections=2)
    await site.server.start()
    ask = b"GET /boot.ipxe HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
        third, fourth = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
        for _, writer in (third, fourth):
            writer.write(ask)
        async with asyncio.timeout(10):
            (queue,) = [queue for queue in site.server.queues if queue.setting == "boot.http_connections"]
            while len(queue) < 2:
                await asyncio.sleep(0)
            assert queue.longest() >= 0
            silent[0][1].close()  # a place for the third; once that has its answer, it makes room for the fourth
            for reader, _ in (third, fourth):
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            await third[0].read()
            assert len(queue) == 0
            fourth[1].write(ask)  # nobody wants its place
            assert (await fourth[0].readuntil(b"\r\n\r\n")).endswith(b"\r\n\r\n")
        for _, writer in (*silent, third, fourth):
            writer.close()
    finally:
        await site.server.close()


async def test_a_crowd_many_times_the_limit_is_served_whole(tmp_path: Path) -> None:
    site = Site(tmp_path, http_connections=3)
    await site.server.start()
    try:
        stay: list[asyncio.StreamWriter] = []

        async def one() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            stay.append(writer)  # connected, as a boot ROM does
            writer.write(b"GET /ramdisk/kernel HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return len(await reader.readexactly(size))

        async with asyncio.timeout(30):
            assert len(set(await asyncio.gather(*(one() for _ in range(25))))) == 1
        assert site.server.served[200] == 25
        for writer in stay:
            writer.close()
    finally:
        await site.server.close()


async def test_connections_far_over_the_limit_are_refused(
    tmp_path: Path, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metald.boot.gate._most_waiting", lambda limit: limit)
    site = Site(tmp_path, http_connections=1)
    await site.server.start()
    try:
        held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await text(web, f"{site.base}/boot.ipxe")
        assert "boot.http_connections" in caplog.text
        for _, writer in held:
            writer.close()
    finally:
        await site.server.close()
