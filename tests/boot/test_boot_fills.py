"""Files of other servers: one transfer for all, read while it comes, kept, asked for again, and everything that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metald.boot import fills as module
from metald.boot.files import BootFiles
from metald.boot.fills import Fill, Fills
from metald.boot.http import BootHttp
from metald.boot.tftp.server import TftpServer
from metald.errors import ImageError
from metald.sim.tftp import fetch
from tests.support.boot_fleet import MAC, Fleet, boot_settings
from tests.support.far_server import FarServer, far_server

BIG = bytes(range(256)) * 40_000


@pytest.fixture
async def far() -> AsyncIterator[FarServer]:
    async with far_server({"k": BIG, "small": b"small"}) as server:
        yield server


@pytest.fixture
async def fills(tmp_path: Path) -> AsyncIterator[Fills]:
    made = Fills(tmp_path / "boot-files", 1 << 30, 20.0)
    yield made
    await made.close()


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is asked for again each time."""
    monkeypatch.setattr(module, "_FRESH", -1.0)


async def whole(fill: Fill) -> bytes:
    return await asyncio.to_thread((await fill.finished()).read_bytes)


async def test_many_cause_one_transfer_and_read_while_it_comes(far: FarServer, fills: Fills) -> None:
    far.hold.clear()
    opened = await asyncio.gather(*(fills.open(f"{far.url}/k") for _ in range(200)))
    assert far.asked == ["/k"]
    assert all(fill is opened[0] for fill in opened)
    fill = opened[0]
    assert await fill.sized() == len(BIG)
    await fill.reached(len(BIG) // 4)
    with fill.open() as file:
        assert file.read(1000) == BIG[:1000]
    assert not fill.complete
    waiting = asyncio.ensure_future(whole(fill))
    far.hold.set()
    assert await waiting == BIG
    assert far.asked == ["/k"]
    # Just fetched: nobody asks again.
    assert (await fills.open(f"{far.url}/k")) is fill
    assert far.asked == ["/k"]


async def test_what_is_here_is_asked_for_again_and_not_fetched_again(far: FarServer, fills: Fills, stale: None) -> None:
    far.etags["k"] = '"one"'
    first = await fills.open(f"{far.url}/k")
    await first.finished()
    assert await whole(await fills.open(f"{far.url}/k")) == BIG
    assert far.conditions == [None, '"one"']
    far.files["k"], far.etags["k"] = b"new", '"two"'
    second = await fills.open(f"{far.url}/k")
    assert await whole(second) == b"new"
    assert second is not first


async def test_it_outlives_the_daemon(far: FarServer, fills: Fills, tmp_path: Path) -> None:
    far.etags["k"] = '"one"'
    await (await fills.open(f"{far.url}/k")).finished()
    await fills.close()
    again = Fills(tmp_path / "boot-files", 1 << 30, 20.0)
    assert await whole(await again.open(f"{far.url}/k")) == BIG
    assert far.conditions == [None, '"one"']
    far.status = 503
    third = Fills(tmp_path / "boot-files", 1 << 30, 20.0)
    assert await whole(await third.open(f"{far.url}/k")) == BIG  # its server is down; what is here serves


@pytest.mark.parametrize("status", [404, 500])
async def test_a_server_that_refuses(far: FarServer, fills: Fills, status: int) -> None:
    far.status = status
    for _ in range(2):
        with pytest.raises(ImageError, match=rf"/k cannot be fetched: its server answered {status}"):
            await fills.open(f"{far.url}/k?sig=secret")
    assert len(far.asked) == 2
    far.status = 200
    assert await whole(await fills.open(f"{far.url}/k")) == BIG


async def test_a_server_that_is_not_there(fills: Fills) -> None:
    with pytest.raises(ImageError, match=r"http://127\.0\.0\.1:1/k cannot be fetched"):
        await fills.open("http://user:secret@127.0.0.1:1/k")


async def test_a_transfer_that_ends_early_is_told_to_all_who_read(far: FarServer, fills: Fills, tmp_path: Path) -> None:
    far.short.add("k")
    far.hold.clear()
    fill = await fills.open(f"{far.url}/k")
    reading = [asyncio.ensure_future(work) for work in (fill.reached(len(BIG)), fill.finished())]
    far.hold.set()
    for each in await asyncio.gather(*reading, return_exceptions=True):
        assert isinstance(each, ImageError)
    far.short.clear()
    assert await whole(await fills.open(f"{far.url}/k")) == BIG
    assert len(far.asked) == 2


async def test_a_server_that_stalls(far: FarServer, tmp_path: Path) -> None:
    impatient = Fills(tmp_path / "boot-files", 1 << 30, 0.2)
    far.hold.clear()
    fill = await impatient.open(f"{far.url}/k")
    with pytest.raises(ImageError, match=r"no byte came for 0\.2 seconds"):
        await fill.finished()
    await impatient.close()


async def test_a_length_that_nobody_told(far: FarServer, fills: Fills) -> None:
    far.unsized.add("k")
    fill = await fills.open(f"{far.url}/k")
    assert await fill.sized() == len(BIG)
    assert await whole(fill) == BIG


async def test_what_is_too_large(far: FarServer, tmp_path: Path) -> None:
    small = Fills(tmp_path / "boot-files", 1000, 20.0)
    with pytest.raises(ImageError, match=r"more than boot\.cache_size"):
        await small.open(f"{far.url}/k")
    far.unsized.add("k")
    with pytest.raises(ImageError, match=r"larger than boot\.cache_size"):
        await (await small.open(f"{far.url}/k")).finished()
    assert await whole(await small.open(f"{far.url}/small")) == b"small"


async def test_the_least_recently_used_goes(far: FarServer, tmp_path: Path) -> None:
    far.files |= {name: bytes(400) for name in "abc"}
    made = Fills(tmp_path / "boot-files", 1000, 20.0)
    for name in "abc":
        await (await made.open(f"{far.url}/{name}")).finished()
    assert far.asked == ["/a", "/b", "/c"]
    kept = [path for path in (tmp_path / "boot-files").iterdir() if not path.suffix]
    assert len(kept) == 2
    assert await whole(await made.open(f"{far.url}/a")) == bytes(400)
    assert far.asked[-1] == "/a"
    await made.close()


async def test_a_file_that_somebody_removed(far: FarServer, fills: Fills, tmp_path: Path) -> None:
    (await (await fills.open(f"{far.url}/k")).finished()).unlink()
    assert await whole(await fills.open(f"{far.url}/k")) == BIG
    assert far.asked == ["/k", "/k"]


class Boots:
    """Both boot servers, with a node whose kernel lies elsewhere."""

    def __init__(self, folder: Path, url: str) -> None:
        self.fleet = Fleet()
        settings = boot_settings(folder)
        self.files = BootFiles(self.fleet, settings)
        node = self.fleet.boot(self.fleet.add(MAC))
        info = {**node.driver_internal_info, "boot_agent": {"kernel": f"{url}/k", "ramdisk": f"{url}/gone"}}
        self.node = self.fleet.change(node, driver_internal_info=info)
        self.http = BootHttp(self.fleet, self.files, settings)
        self.tftp = TftpServer(self.fleet, self.files, settings)

    def path(self, what: str) -> str:
        return f"boot/{self.node.uuid}/{self.node.driver_internal_info['boot_token']}/{what}"

    async def __aenter__(self) -> Boots:
        await self.http.start()
        await self.tftp.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.http.close()
        await self.tftp.close()
        await self.files.fills.close()


async def test_both_servers_pass_it_on(far: FarServer, tmp_path: Path) -> None:
    async with Boots(tmp_path, far.url) as boots, aiohttp.ClientSession(f"http://127.0.0.1:{boots.http.addresses[0][1]}") as web:
        far.hold.clear()
        async with web.get(f"/{boots.path('deploy_kernel')}") as answer:
            # The head and the first half are here while the other server holds back the rest.
            assert answer.headers["Content-Length"] == str(len(BIG))
            assert await answer.content.readexactly(1 << 20) == BIG[: 1 << 20]
            far.hold.set()
            assert await answer.content.read() == BIG[1 << 20 :]
        async with web.get(f"/{boots.path('deploy_kernel')}", headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, BIG[5:10])
        client = await fetch(boots.tftp.addresses[0], boots.path("deploy_kernel"), blksize=1468, windowsize=16)
        assert bytes(client.data) == BIG
        assert far.asked == ["/k"]
        async with web.get(f"/{boots.path('deploy_ramdisk')}") as answer:
            assert answer.status == 502
            assert "gone cannot be fetched" in await answer.text()
        token = boots.node.driver_internal_info["boot_token"]
        assert token not in str(boots.fleet.events)


async def test_a_transfer_that_fails_half_way_cuts_the_answer_short(far: FarServer, tmp_path: Path) -> None:
    far.short.add("k")
    far.hold.clear()
    async with Boots(tmp_path, far.url) as boots, aiohttp.ClientSession(f"http://127.0.0.1:{boots.http.addresses[0][1]}") as web:
        async with web.get(f"/{boots.path('deploy_kernel')}") as answer:
            await answer.content.readexactly(1 << 20)
            far.hold.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        _, told = await boots.fleet.event("node.http")
        assert "cannot be fetched" in told["error"]
