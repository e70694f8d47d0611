"""Files that others send for the boot HTTP server: worker processes of ours, and nginx in front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metald.boot import fronts, workers
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.config import ConfigError
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.tls import authority

BIG = os.urandom(5 << 20)


class Site:
    """A boot HTTP server with what the settings say in front of it."""

    def __init__(self, folder: Path, **boot: Any) -> None:
        self.fleet = Fleet()
        self.settings = boot_settings(folder, **boot)
        (folder / "ipxe/big.efi").write_bytes(BIG)
        self.files = BootFiles(self.fleet, self.settings)
        self.server = BootHttp(self.fleet, self.files, self.settings)
        self._working: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self.server.start()
        if self.settings.boot.http_workers:
            self._working = asyncio.create_task(self.server.work())

    async def close(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        await self.server.close()


@contextlib.asynccontextmanager
async def serving(folder: Path, **boot: Any) -> AsyncIterator[tuple[Site, aiohttp.ClientSession]]:
    site = Site(folder, **boot)
    await site.start()
    try:
        # No connection is used twice, so that all workers have some.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(site.base, connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as web:
            yield site, web
    finally:
        await site.close()


async def test_workers_send_what_the_daemon_says(tmp_path: Path) -> None:
    async with serving(tmp_path, http_workers=2) as (site, web):
        node = site.fleet.boot(site.fleet.add(MAC))
        token = node.driver_internal_info["boot_token"]
        async with web.get(f"/boot/ipxe?mac={MAC}") as answer:
            script = await answer.text()
            assert f"{site.base}/boot/{node.uuid}/{token}/kernel" in script
        own = f"/boot/{node.uuid}/{token}"
        sizes = await asyncio.gather(*(_size(web, "/ipxe/big.efi") for _ in range(20)))
        assert sizes == [len(BIG)] * 20
        async with web.get("/ipxe/big.efi", headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, BIG[5:10])
            etag = answer.headers["ETag"]
        async with web.get("/ipxe/big.efi", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
        async with web.head("/ipxe/big.efi") as answer:
            assert answer.headers["Content-Length"] == str(len(BIG))
        async with web.get(f"{own}/kernel") as answer:
            assert await answer.read() == b"K" * 10000
        async with web.get(f"{own}/keys") as answer:
            assert "host_private_key" in await answer.json()
        async with web.post(f"{own}/ready", json={"port": 22}) as answer:
            assert answer.status == 204
        assert site.fleet.calls[0][1]["address"] == "127.0.0.1"
        for path, status in (("/nothing.efi", 404), (f"/boot/{node.uuid}/wrong/keys", 403), ("/ipxe/../../etc/passwd", 404)):
            async with web.get(path) as answer:
                assert answer.status == status
        # Whoever is no worker is none by saying so.
        for path in ("/-/told", "/-/taken"):
            async with web.post(path, json={}, headers={fronts.WORKER: "1", fronts.SECRET: "x"}) as answer:
                assert answer.status == 404
        _, told = await site.fleet.event("node.http", "ipxe/big.efi")
        assert (told["status"], told["bytes"], told["client"]) == (200, len(BIG), "127.0.0.1")
        assert "handed_over" not in told
        assert token not in str(site.fleet.events)
        assert site.server._handed == {}


async def _size(web: aiohttp.ClientSession, path: str) -> int:
    async with web.get(path) as answer:
        return len(await answer.read())


async def test_a_worker_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PAUSE", 0.0)
    (tmp_path / "huge").write_bytes(bytes(64 << 20))
    async with serving(tmp_path, http_workers=1, loader_file_paths=[f"huge.efi:{tmp_path / 'huge'}"]) as (site, web):
        async with web.get("/huge.efi") as answer:
            await answer.content.readexactly(1000)
            assert site.server._workers is not None
            (process,) = site.server._workers.running.values()
            process.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        _, told = await site.fleet.event("node.http", "huge.efi")
        assert told["error"] == "the worker that sent it ended"
        # Its socket stayed: whoever comes meanwhile waits for the next one.
        assert await _size(web, "/ipxe/big.efi") == len(BIG)
        assert list(site.server._workers.running.values()) != [process]


async def test_a_client_that_goes_away_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(bytes(64 << 20))
    async with serving(tmp_path, http_workers=1, loader_file_paths=[f"huge.efi:{tmp_path / 'huge'}"]) as (site, web):
        async with web.get("/huge.efi") as answer:
            await answer.content.readexactly(1000)
            answer.close()
        _, told = await site.fleet.event("node.http", "huge.efi")
        assert told["error"].startswith("the client went away")
        assert 0 < told["bytes"] < 64 << 20


async def test_workers_keep_to_the_bandwidth_together(tmp_path: Path) -> None:
    async with serving(tmp_path, http_workers=2, http_bandwidth=8 << 20, http_bandwidth_per_client=4 << 20) as (site, web):
        assert await asyncio.gather(*(_size(web, "/ipxe/big.efi") for _ in range(2))) == [len(BIG)] * 2
        assert site.server.bandwidth.bytes == 2 * len(BIG)
        assert site.server._shares["127.0.0.1"].bytes == 2 * len(BIG)


async def test_workers_speak_tls_with_a_key_that_they_cannot_read(tmp_path: Path) -> None:
    ca, certificate, key = authority(tmp_path, "boot.example.org")
    site = Site(tmp_path, http_workers=1, http_tls_certificate=str(certificate), http_tls_key=str(key))
    await site.start()
    key.unlink()
    certificate.unlink()
    try:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)))
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as web:
            assert await _size(web, f"https://127.0.0.1:{site.port}/ipxe/big.efi") == len(BIG)
            async with web.get(f"https://127.0.0.1:{site.port}/boot.ipxe") as answer:
                assert f"chain --replace --autofree https://127.0.0.1:{site.port}/boot/ipxe?" in await answer.text()
    finally:
        await site.close()


async def test_an_address_that_somebody_has_is_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path, http_workers=2) as (site, _):
        other = Site(tmp_path, http_workers=2, http_listen=f"127.0.0.1:{site.port}")
        with pytest.raises(OSError, match="in use"):
            await other.server.start()


# -- nginx in front


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: int) -> AsyncIterator[str]:
    """nginx in front of a boot HTTP server, as docs/howto/boot-http.md says; gives its URL."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log stderr error; events {{ }}
        http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};
          location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }}
          location /metald-files/ {{ internal; alias /; sendfile on; }} }} }}"""
    )
    argv = [program, "-e", "stderr", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_nginx_sends_what_it_is_named(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, http_fronts=["127.0.0.0/8"], http_accel="/metald-files") as (site, _),
        nginx(tmp_path / "nginx", site.port) as url,
        aiohttp.ClientSession(url) as web,
    ):
        node = site.fleet.boot(site.fleet.add(MAC))
        token = node.driver_internal_info["boot_token"]
        async with web.get(f"/boot/ipxe?mac={MAC}") as answer:
            assert f"{url}/boot/{node.uuid}/{token}/kernel" in await answer.text()
        async with web.get("/ipxe/big.efi") as answer:
            assert answer.headers["Server"].startswith("nginx")
            assert await answer.read() == BIG
        async with web.get("/ipxe/big.efi", headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, BIG[5:10])
        async with web.get(f"/boot/{node.uuid}/{token}/kernel") as answer:
            assert await answer.read() == b"K" * 10000
        for path, status in ((f"/boot/{node.uuid}/wrong/kernel", 403), ("/metald-files/etc/passwd", 404)):
            async with web.get(path) as answer:
                assert answer.status == status
        _, told = await site.fleet.event("node.http", "ipxe/big.efi")
        assert (told["bytes"], told["handed_over"]) == (len(BIG), True)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"X-Real-IP": "192.0.2.9"}, "192.0.2.9"),
        ({"X-Forwarded-For": "203.0.113.1, 192.0.2.9"}, "192.0.2.9"),
        ({"X-Real-IP": "[2001:db8::1]"}, "2001:db8::1"),
        ({"X-Real-IP": "nonsense"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_only_fronts_are_believed(tmp_path: Path, headers: dict[str, str], client: str, trusted: bool) -> None:
    front = ["127.0.0.1"] if trusted else ["192.0.2.0/24"]
    async with serving(tmp_path, http_fronts=front, http_accel="/files") as (site, web):
        async with web.get("/ipxe/big.efi", headers={**headers, "X-Forwarded-Proto": "https"}) as answer:
            assert (fronts.ACCEL in answer.headers) == trusted
            if trusted:
                assert answer.headers[fronts.ACCEL] == f"/files{tmp_path}/ipxe/big.efi"
        async with web.get("/boot.ipxe", headers={**headers, "X-Forwarded-Proto": "https"}) as answer:
            assert (f"https://127.0.0.1:{site.port}/boot/ipxe" in await answer.text()) == trusted
        _, told = await site.fleet.event("node.http", "ipxe/big.efi")
        assert told["client"] == (client if trusted else "127.0.0.1")


@pytest.mark.parametrize(
    ("boot", "cause"),
    [
        ({"http_fronts": ["nonsense"]}, "http_fronts"),
        ({"http_accel": "/files"}, "needs boot.http_fronts"),
        ({"http_fronts": ["127.0.0.1"], "http_accel": "files"}, "must begin with /"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, boot: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause.replace(".", r"\.")):
        Site(tmp_path, **boot)


def test_what_killed_daemons_left_is_removed_and_what_others_use_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, used, beginning = workers.make_place(), workers.make_place(), workers.make_place()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
        killed.listen()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(used))
        listening.listen()
        own = workers.make_place()
        assert not left.parent.exists()
        assert used.exists()
        assert beginning.parent.exists()
        workers.clear(own)
        assert not own.parent.exists()
