"""Image servers that lie, files that change, caches that are full or emptied under somebody's hands, and logins."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import itertools
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from metald.config import Images
from metald.errors import ImageError
from metald.images import download, sources
from metald.images.cache import ImageCache
from metald.images.request import ImageRequest
from metald.images.shelf import Shelf

MIB = 1 << 20
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Answers each connection by a script, byte for byte: what no HTTP library would send."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.port = 0
        self._serving: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RawServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
            await answer(request, writer)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.close()
            await writer.wait_closed()
        self._serving.discard(task)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/image.raw"


def sends(head: str, *pieces: bytes) -> Answer:
    """Answer with a head and pieces of a body, and close."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def endless(head: str, piece: bytes, pause: float = 0.0) -> Answer:
    """Answer with a body that has no end."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode())
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RETRY_DELAY", 0.01)


def cache_in(folder: Path, **settings: Any) -> ImageCache:
    (folder / "files").mkdir(exist_ok=True)
    return ImageCache(Images(**{"file_roots": [str(folder / "files")], "download_timeout": 5.0, **settings}), folder)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for kind in ("partial", "raw") for path in (folder / "images" / kind).glob("*"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DISK = (bytes(510) + b"\x55\xaa" + os.urandom(200_000)).ljust(MIB, b"\0")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([sends(f"200 OK\r\nContent-Length: {2 * MIB}", DISK)], "closed early|not completed|payload"),
        ([sends("200 OK\r\nContent-Length: 1000", DISK)], "Data after|wrong checksum"),
        ([sends("200 OK\r\nContent-Length: 0")], "wrong checksum"),
        ([sends("200 OK\r\nContent-Length: -5", DISK)], "cannot be fetched"),
        ([sends(f"200 OK\r\nContent-Length: {1 << 50}", DISK)], r"needs 1125899906842624 bytes, the image cache may hold"),
        ([endless("200 OK\r\nTransfer-Encoding: chunked", b"40000\r\n" + bytes(1 << 18) + b"\r\n")], r"the image cache may hold"),
        ([endless("200 OK", bytes(1 << 18))], r"the image cache may hold"),
        ([sends("200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n")], "cannot be fetched"),
        ([sends("206 Partial Content\r\nContent-Range: bytes 7-9/10\r\nContent-Length: 3", b"abc")], "wrong checksum"),
        ([sends("302 Found\r\nLocation: file:///etc/shadow\r\nContent-Length: 0")], "cannot be fetched"),
        ([sends("200 OK\r\nContent-Encoding: gzip", gzip.compress(DISK))], "wrong checksum"),
        ([sends("nonsense")], "cannot be fetched"),
    ],
)
async def test_servers_that_lie(answers: list[Answer], words: str, tmp_path: Path) -> None:
    async with RawServer(*answers).running() as server:
        with pytest.raises(ImageError, match=words):
            await cache_in(tmp_path, cache_size=64 * MIB).fetch(ImageRequest(server.url, "sha256", sha256(DISK)))
    assert left_over(tmp_path) == []


async def test_a_drip_is_as_good_as_silence(tmp_path: Path) -> None:
    async with RawServer(endless("200 OK\r\nContent-Length: 1000000", b"x", 0.02)).running() as server:
        with pytest.raises(ImageError, match=r"only \d+ bytes came in 0\.2 seconds"):
            await cache_in(tmp_path, download_timeout=0.2).fetch(ImageRequest(server.url, "sha256", sha256(DISK)))
    assert len(server.requests) == 4
    assert left_over(tmp_path) == []


async def test_content_that_changes_behind_one_etag_is_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first part is of one image, the rest of another, and the server swears that nothing changed."""
    monkeypatch.setattr(download, "CHUNK", 1 << 16)
    old = os.urandom(MIB)

    async def first(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f'HTTP/1.1 200 OK\r\nETag: "same"\r\nContent-Length: {MIB}\r\n\r\n'.encode() + old[: MIB // 2])
        await writer.drain()
        while not any(path.stat().st_size for path in (tmp_path / "images" / "partial").glob("*[!n]")):
            await asyncio.sleep(0.01)

    async def rest(request: bytes, writer: asyncio.StreamWriter) -> None:
        begin = int(request.partition(b"Range: bytes=")[2].partition(b"-")[0])
        head = f'206 Partial Content\r\nETag: "same"\r\nContent-Range: bytes {begin}-{MIB - 1}/{MIB}\r\nContent-Length: {MIB - begin}'
        await sends(head, DISK[begin:])(request, writer)

    whole = sends(f'200 OK\r\nETag: "same"\r\nContent-Length: {MIB}', DISK)
    async with RawServer(first, rest, whole).running() as server:
        image = await cache_in(tmp_path).fetch(ImageRequest(server.url, "sha256", sha256(DISK)))
    assert image.path.read_bytes() == DISK
    assert [b"Range: bytes=" in request for request in server.requests] == [False, True, False]


async def test_content_that_is_wrong_in_one_piece_is_fetched_once(tmp_path: Path) -> None:
    async with RawServer(sends(f"200 OK\r\nContent-Length: {MIB}", DISK)).running() as server:
        with pytest.raises(ImageError, match="wrong checksum"):
            await cache_in(tmp_path).fetch(ImageRequest(server.url, "sha256", "0" * 64))
    assert len(server.requests) == 1


async def test_logins_go_to_their_server_alone(tmp_path: Path) -> None:
    async with RawServer(sends(f"200 OK\r\nContent-Length: {MIB}", DISK)).running() as other:
        away = sends(f"302 Found\r\nLocation: {other.url}\r\nContent-Length: 0")
        async with RawServer(away).running() as server:
            request = ImageRequest(server.url, "sha256", sha256(DISK), authorization="Basic bWU6d29yZA==")
            await cache_in(tmp_path).fetch(request)
    assert b"Authorization: Basic bWU6d29yZA==" in server.requests[0]
    assert b"Authorization" not in other.requests[0]


async def test_a_checksum_file_on_another_server_gets_no_login(tmp_path: Path) -> None:
    sums = sends("200 OK", f"{sha256(DISK)}  image.raw\n".encode())
    async with RawServer(sums).running() as elsewhere, RawServer(sends(f"200 OK\r\nContent-Length: {MIB}", DISK)).running() as server:
        url = elsewhere.url.replace("image.raw", "SUMS")
        await cache_in(tmp_path).fetch(ImageRequest(server.url, checksum_url=url, authorization="Basic bWU6d29yZA=="))
    assert b"Authorization" not in elsewhere.requests[0]
    assert b"Authorization" in server.requests[0]


async def test_a_proxy_is_asked_for_what_is_not_excepted(tmp_path: Path) -> None:
    async with RawServer(sends(f"200 OK\r\nContent-Length: {MIB}", DISK)).running() as proxy:
        proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
        await cache_in(tmp_path).fetch(ImageRequest("http://images.example/i.raw", "sha256", sha256(DISK), proxies=proxies))
        assert proxy.requests[0].startswith(b"GET http://images.example/i.raw HTTP/1.1")


async def test_a_file_that_changes_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_in(tmp_path)
    path = tmp_path / "files" / "i.raw"
    path.write_bytes(DISK)
    monkeypatch.setattr(sources, "CHUNK", MIB // 4)

    def change(**shown: object) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(ImageError, match="was changed while it was copied"):
        await cache.fetch(ImageRequest(path.as_uri()), change)
    assert left_over(tmp_path) == []


async def test_two_deployments_of_one_image_while_it_is_evicted(tmp_path: Path) -> None:
    """Many take and release one image while others crowd it out: whoever was given it has it, whole."""
    cache = cache_in(tmp_path, cache_size=5 * MIB)
    wanted, other = (tmp_path / "files" / name for name in ("wanted", "other"))
    wanted.write_bytes(os.urandom(2 * MIB))
    other.write_bytes(os.urandom(2 * MIB))
    third = tmp_path / "files" / "third"
    third.write_bytes(os.urandom(2 * MIB))
    held = 0

    async def deploy(name: str) -> None:
        nonlocal held
        for _ in range(12):
            image = await cache.fetch(ImageRequest(wanted.as_uri()), holder=name)
            assert image.path.stat().st_size == 2 * MIB
            await asyncio.sleep(0)
            assert image.path.read_bytes() == wanted.read_bytes()
            held += 1
            await cache.release(name)

    async def crowd() -> None:
        for path in (other, third) * 8:
            with contextlib.suppress(ImageError):  # both deployments may hold what there is
                await cache.fetch(ImageRequest(path.as_uri()))

    await asyncio.gather(deploy("n1"), deploy("n2"), crowd())
    assert held == 24


def test_what_is_taken_is_not_evicted_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is looked at and held under the lock that eviction needs."""
    shelf = Shelf(tmp_path, 4 * MIB)
    name = "a" * 128
    shelf.partial("k")
    shelf.raw(name).write_bytes(bytes(2 * MIB))
    evicted: list[bool] = []
    real = Shelf.write

    def write(self: Shelf, path: Path, data: bytes) -> None:
        evicted.append(self._lock.locked())
        real(self, path, data)

    monkeypatch.setattr(Shelf, "write", write)
    assert shelf.take(name, 2 * MIB, "node")
    assert evicted == [True]
    assert not shelf.take(name, 3 * MIB, "node")
    assert not shelf.take("b" * 128, 3 * MIB, "node")


async def test_nobody_uses_an_image_for_long_and_it_goes(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, cache_age=3600.0)
    images = []
    for name in ("old", "held", "new"):
        (tmp_path / "files" / name).write_bytes(os.urandom(MIB))
        images.append(await cache.fetch(ImageRequest((tmp_path / "files" / name).as_uri()), holder="n1" if name == "held" else ""))
    old, held, new = (image.path for image in images)
    for path in (old, held):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    running = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(30):
            while old.exists():
                await asyncio.sleep(0.01)
            assert held.exists()
            assert new.exists()
            await cache.release("n1")
            while held.exists():
                await asyncio.sleep(0.01)
        assert new.exists()
        assert not running.done()
        notes = list((tmp_path / "images" / "index").iterdir())
        assert [new.name in note.read_text() for note in notes] == [True]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_looks_for_old_images_take_little_of_the_time_whatever_a_storm_of_deployments_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_in(tmp_path, cache_age=3600.0)
    looks: list[float] = []

    def look(self: Shelf, age: float) -> float | None:
        looks.append(time.monotonic())
        time.sleep(0.02)
        return None

    monkeypatch.setattr(Shelf, "drop_old", look)
    running = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(60):
            while len(looks) < 3:
                await cache.release("n1")
                await asyncio.sleep(0.01)
        # a slow machine makes it longer, never shorter
        assert all(after - before >= 0.02 * 51 for before, after in itertools.pairwise(looks))
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_holds_are_read_once_and_survive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a" * 128
    before = Shelf(tmp_path, 100 * MIB)
    before.partial("k")
    before.raw(name).write_bytes(os.urandom(MIB))
    for number in range(20):
        assert before.take(name, MIB, f"n{number}")
    os.utime(before.raw(name), (1, 1))
    read: list[Path] = []
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *args, **more: read.append(self) or real(self, *args, **more))
    shelf = Shelf(tmp_path, 100 * MIB)
    for number in range(19):
        shelf.drop_old(60.0)
        shelf.release(f"n{number}")
    assert len(read) == 20
    assert shelf.take(name, MIB, "another")
    os.utime(shelf.raw(name), (1, 1))
    shelf.release("n19")
    shelf.drop_old(60.0)
    assert shelf.raw(name).exists(), "the other node's hold counts, which came meanwhile"
    shelf.release("another")
    shelf.drop_old(60.0)
    assert not shelf.raw(name).exists()
    assert len(read) == 20


async def test_age_can_be_turned_off(tmp_path: Path) -> None:
    await cache_in(tmp_path, cache_age=0.0).run()


def test_room_counts_what_a_fetch_has_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that is half done on a disk with half the room is not refused for the half that it has."""
    shelf = Shelf(tmp_path, 100 * MIB)
    shelf.partial("k").write_bytes(os.urandom(6 * MIB))
    monkeypatch.setattr(Shelf, "_free", lambda _: 5 * MIB)
    shelf.make_room("k", 10 * MIB, "i")
    with pytest.raises(ImageError, match=r"has 5242880 bytes left; the image i needs \d+"):
        shelf.make_room("k", 20 * MIB, "i")


async def test_a_conversion_needs_room_for_both(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, cache_size=9 * MIB)
    raw, packed = tmp_path / "raw", tmp_path / "files" / "i.qcow2"
    raw.write_bytes(os.urandom(5 * MIB))
    await asyncio.to_thread(subprocess.run, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, packed], check=True)
    with pytest.raises(ImageError, match=r"needs \d+ bytes, the image cache may hold 9437184"):
        await cache.fetch(ImageRequest(packed.as_uri()))
    assert left_over(tmp_path) == []


async def test_a_format_that_is_no_longer_permitted_is_not_given_from_the_cache(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    raw, packed = tmp_path / "raw", tmp_path / "files" / "i.vmdk"
    raw.write_bytes(DISK)
    await asyncio.to_thread(subprocess.run, ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, packed], check=True)
    request = ImageRequest(packed.as_uri())
    with pytest.raises(ImageError, match=r"is vmdk, which images\.formats does not permit"):
        await cache.fetch(request)
    kept = await cache_in(tmp_path, formats=["raw", "qcow2", "vmdk"]).fetch(request)
    assert (kept.format, kept.path.read_bytes()) == ("vmdk", DISK)
    with pytest.raises(ImageError, match=r"is vmdk, which images\.formats does not permit"):
        await cache_in(tmp_path).fetch(request)


@pytest.mark.parametrize("program", ["gzip", "zstd"])
async def test_a_packed_disk_is_compared_as_it_is_fetched(tmp_path: Path, program: str) -> None:
    done = await asyncio.to_thread(subprocess.run, [program, "-c"], input=DISK, capture_output=True, check=True)
    async with RawServer(sends(f"200 OK\r\nContent-Length: {len(done.stdout)}", done.stdout)).running() as server:
        request = ImageRequest(server.url, "sha256", sha256(done.stdout), disk_format="raw")
        kept = await cache_in(tmp_path).fetch(request)
    assert (kept.format, kept.size, kept.path.read_bytes()) == (program, MIB, DISK)
    assert kept.sha512 == hashlib.sha512(DISK).hexdigest()
    assert left_over(tmp_path) == [kept.sha512]


def test_a_rate_is_told_apart_from_a_slow_line() -> None:
    """What the least rate asks of a line: a KiB a second, over a minute by default."""
    assert download._LEAST_RATE * Images().download_timeout == 60 * 1024
