"""The image cache against a real HTTP server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from metald.config import Images
from metald.errors import ImageError, NotAllowed
from metald.images import shelf as shelves
from metald.images import sources
from metald.images.cache import ImageCache
from metald.images.request import ImageRequest
from metald.images.sink import Sink
from metald.model import Node

MIB = 1 << 20


class Server:
    """Serves `data` and counts."""

    def __init__(self) -> None:
        self.data = os.urandom(6 * MIB)
        self.requests: list[str | None] = []
        self.breaks_at: list[int] = []
        self.etag = '"one"'
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.waits = False
        self.port = 0

    def url(self, path: str = "/image.raw") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def image(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.headers.get("Range"))
        begin = 0
        if (asked := request.headers.get("Range")) and request.headers.get("If-Range") == self.etag:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": self.etag, "Content-Length": str(len(self.data) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}"
        answer = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await answer.prepare(request)
        breaks = bool(self.breaks_at)
        end = self.breaks_at.pop(0) if breaks else len(self.data)
        await answer.write(self.data[begin:end])
        self.begun.set()
        if self.waits:
            await self.go_on.wait()
        if breaks and request.transport:
            request.transport.abort()
        return answer

    async def sums(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{hashlib.sha256(self.data).hexdigest()}  image.raw\n")

    async def loop(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/loop")

    async def away(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/image.raw")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/image.raw", made.image)
    app.router.add_get("/SUMS", made.sums)
    app.router.add_get("/loop", made.loop)
    app.router.add_get("/away", made.away)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    made.go_on.set()
    await runner.cleanup()


def cache_in(folder: Path, **settings: Any) -> ImageCache:
    return ImageCache(Images(**{"file_roots": [str(folder / "files")], "download_timeout": 5.0, **settings}), folder)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RETRY_DELAY", 0.01)


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    (tmp_path / "files").mkdir()
    return cache_in(tmp_path)


def wanted(server: Server, path: str = "/image.raw", **more: Any) -> ImageRequest:
    return ImageRequest(server.url(path), **{"algorithm": "sha256", "digest": hashlib.sha256(server.data).hexdigest(), **more})


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images" / "partial").glob("*"))


async def test_fetches_once_for_all_who_wait_and_shows_progress_to_each(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    shown: list[list[dict[str, Any]]] = [[], [], []]
    found = await asyncio.gather(*(cache.fetch(wanted(server), lambda *, one=one, **f: one.append(f)) for one in shown))
    assert len(server.requests) == 1
    assert {image.path for image in found} == {found[0].path}
    assert found[0].path.read_bytes() == server.data
    assert found[0].sha512 == hashlib.sha512(server.data).hexdigest() == found[0].path.name
    assert all(one and one[-1]["bytes"] == one[-1]["total"] == len(server.data) for one in shown)
    assert (await cache.fetch(wanted(server))).path == found[0].path
    assert (await cache_in(tmp_path).fetch(wanted(server))).path == found[0].path
    assert len(server.requests) == 1
    assert left_over(tmp_path) == []


async def test_redirects_and_checksum_files(server: Server, cache: ImageCache) -> None:
    assert (await cache.fetch(wanted(server, "/away"))).size == len(server.data)
    request = ImageRequest(server.url(), checksum_url=server.url("/SUMS"))
    assert (await cache.fetch(request)).size == len(server.data)
    assert len(server.requests) == 1
    with pytest.raises(ImageError, match="has no SHA-256"):
        await cache.fetch(ImageRequest(server.url("/other.raw"), checksum_url=server.url("/SUMS")))
    with pytest.raises(ImageError, match="redirects"):
        await cache.fetch(wanted(server, "/loop", digest="0" * 64))


async def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, cache: ImageCache) -> None:
    server.breaks_at = [5 * MIB]
    assert (await cache.fetch(wanted(server))).path.read_bytes() == server.data
    assert server.requests[0] is None
    assert server.requests[1] is not None


async def test_a_resource_that_changed_meanwhile_is_fetched_from_its_start(server: Server, cache: ImageCache) -> None:
    server.breaks_at = [5 * MIB]
    server.waits = True
    fetch = asyncio.create_task(cache.fetch(wanted(server, digest=hashlib.sha256(b"x" * 5 * MIB).hexdigest())))
    await server.begun.wait()
    server.data, server.etag, server.waits = b"x" * 5 * MIB, '"two"', False
    server.go_on.set()
    assert (await fetch).size == 5 * MIB


async def test_a_new_daemon_takes_up_what_the_old_one_left(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    server.breaks_at = [5 * MIB]
    server.waits = True
    fetch = asyncio.create_task(cache.fetch(wanted(server)))
    await server.begun.wait()
    partial = tmp_path / "images" / "partial"
    async with asyncio.timeout(10):
        while not any(path.stat().st_size >= 4 * MIB for path in partial.glob("*")):
            await asyncio.sleep(0.01)
    fetch.cancel()
    await asyncio.wait([fetch])
    server.waits = False
    server.go_on.set()
    assert (await cache_in(tmp_path).fetch(wanted(server))).path.read_bytes() == server.data
    assert server.requests[-1] is not None


@pytest.mark.parametrize(
    ("path", "digest", "words"), [("/nothing", "0" * 64, "404 Not Found"), ("/image.raw", "0" * 64, "wrong checksum: sha256 is")]
)
async def test_failures_leave_nothing_behind(server: Server, cache: ImageCache, tmp_path: Path, path: str, digest: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        await cache.fetch(wanted(server, path, digest=digest))
    assert left_over(tmp_path) == []


async def test_a_server_that_hangs_is_given_up(server: Server, tmp_path: Path) -> None:
    server.waits = True
    server.breaks_at = [MIB] * 9
    with pytest.raises(ImageError, match=r"no byte came for 0\.1 seconds"):
        await cache_in(tmp_path, download_timeout=0.1).fetch(wanted(server))
    assert left_over(tmp_path) == []


async def test_nobody_listens(cache: ImageCache, unused_tcp_port: int) -> None:
    with pytest.raises(ImageError, match="reachable"):
        await cache.fetch(ImageRequest(f"http://127.0.0.1:{unused_tcp_port}/i", "sha256", "0" * 64))


async def test_local_files_follow_their_changes(cache: ImageCache, tmp_path: Path) -> None:
    path = tmp_path / "files" / "a image.raw"
    path.write_bytes(bytes(MIB) + b"one")
    request = ImageRequest(path.as_uri())
    first = await cache.fetch(request)
    assert first.path.read_bytes() == path.read_bytes()
    assert first.path.stat().st_blocks * 512 < MIB
    path.write_bytes(bytes(MIB) + b"two!")
    assert (await cache.fetch(request)).path.read_bytes().endswith(b"two!")


async def test_files_outside_the_roots_are_refused(cache: ImageCache, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "files" / "link").symlink_to(secret)
    for url in (secret.as_uri(), (tmp_path / "files" / "link").as_uri(), f"file://{tmp_path}/files/../secret"):
        with pytest.raises(NotAllowed, match="not below an allowed directory"):
            await cache.fetch(ImageRequest(url))
    (tmp_path / "files" / "directory").mkdir()
    os.mkfifo(tmp_path / "files" / "fifo")
    for name in ("directory", "fifo"):
        with pytest.raises(ImageError, match="no regular file"):
            await cache.fetch(ImageRequest((tmp_path / "files" / name).as_uri()))
    with pytest.raises(ImageError, match="cannot be read"):
        await cache.fetch(ImageRequest((tmp_path / "files" / "missing").as_uri()))


async def test_qcow2_becomes_raw(cache: ImageCache, tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "files" / "i.qcow2"
    raw.write_bytes(b"\0" * MIB + os.urandom(MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, packed], check=True)
    image = await cache.fetch(ImageRequest(packed.as_uri(), disk_format="qcow2"))
    assert (image.format, image.size) == ("qcow2", 2 * MIB)
    assert image.path.read_bytes() == raw.read_bytes()
    assert image.sha512 == hashlib.sha512(raw.read_bytes()).hexdigest()
    assert left_over(tmp_path) == []
    with pytest.raises(ImageError, match="declared as raw, but it is qcow2"):
        await cache.fetch(ImageRequest(packed.as_uri(), disk_format="raw"))


async def test_a_backing_file_is_never_read(cache: ImageCache, tmp_path: Path) -> None:
    base, packed = tmp_path / "base.raw", tmp_path / "files" / "i.qcow2"
    base.write_bytes(b"secret" * 1000)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, packed], check=True)
    with pytest.raises(ImageError, match="backing file"):
        await cache.fetch(ImageRequest(packed.as_uri()))


async def test_a_damaged_qcow2_is_an_error_of_the_image(cache: ImageCache, tmp_path: Path) -> None:
    packed = tmp_path / "files" / "i.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", packed, "1M"], check=True)
    data = bytearray(packed.read_bytes())
    data[data.find(b"\0\0\0\0", 0x20000) :] = b"\xff" * (len(data) - data.find(b"\0\0\0\0", 0x20000))
    packed.write_bytes(data)
    with pytest.raises(ImageError, match=r"cannot be converted|outside the file"):
        await cache.fetch(ImageRequest(packed.as_uri()))
    assert left_over(tmp_path) == []


def fill(folder: Path, *names: str) -> list[ImageRequest]:
    made = []
    for name in names:
        path = folder / "files" / name
        path.write_bytes(os.urandom(2 * MIB))
        made.append(ImageRequest(path.as_uri()))
    return made


async def test_the_least_recently_used_goes_and_what_is_held_stays(cache: ImageCache, tmp_path: Path) -> None:
    cache = cache_in(tmp_path, cache_size=5 * MIB)
    one, two, three, four = fill(tmp_path, "1", "2", "3", "4")
    first = await cache.fetch(one, holder="node1")
    second = await cache.fetch(two)
    os.utime(first.path, (1, 1))
    third = await cache.fetch(three, holder="node3")
    assert first.path.exists()
    assert third.path.exists()
    assert not second.path.exists()
    with pytest.raises(ImageError, match=r"no room.*images\.cache_size"):
        await cache.fetch(four)
    await cache.release("node1")
    assert (await cache.fetch(four)).path.exists()
    assert not first.path.exists()
    (tmp_path / "files" / "big").write_bytes(bytes(6 * MIB))
    with pytest.raises(ImageError, match=r"may hold.*Raise images\.cache_size"):
        await cache.fetch(ImageRequest((tmp_path / "files" / "big").as_uri()))


async def test_a_full_disk_names_the_directory_and_the_remedy(cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [one] = fill(tmp_path, "1")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Sink, "write", full)
        with pytest.raises(ImageError, match=rf"{tmp_path}/images is full.*images\.cache_dir"):
            await cache.fetch(one)
    assert left_over(tmp_path) == []
    with monkeypatch.context() as patched:
        patched.setattr(shelves, "_SPARE", 1 << 60)
        with pytest.raises(ImageError, match=r"bytes left.*images\.cache_dir"):
            await cache.fetch(one)
    assert (await cache.fetch(one)).size == 2 * MIB


async def test_an_entry_whose_disk_is_gone_or_cut_is_fetched_again(cache: ImageCache, tmp_path: Path) -> None:
    [one] = fill(tmp_path, "1")
    image = await cache.fetch(one)
    image.path.write_bytes(b"short")
    assert (await cache.fetch(one)).path.stat().st_size == 2 * MIB
    image.path.unlink()
    assert (await cache.fetch(one)).path.exists()


async def test_what_a_boot_may_fetch(cache: ImageCache, tmp_path: Path) -> None:
    [one] = fill(tmp_path, "1")
    node = Node(driver="ipmi")
    assert cache.image_for(node, "image") is None
    image = await cache.fetch(one, holder=node.uuid)
    told = node.changed(driver_internal_info={"deploy_image": {"sha512": image.sha512}})
    assert cache.image_for(told, "image") == image.path
    drive = await cache.store_config_drive(node.uuid, b"iso")
    assert cache.image_for(node, "configdrive") == drive.path
    assert drive.path.stat().st_mode & 0o077 == 0 or drive.path.parent.stat().st_mode & 0o077 == 0
    await cache.release(node.uuid)
    assert cache.image_for(node, "configdrive") is None
