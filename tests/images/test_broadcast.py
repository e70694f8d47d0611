"""Two hundred machines ask for one image: what that costs metald, counted."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.images import fetcher
from metald.images.cache import ImageCache
from metald.images.request import ImageRequest
from tests.support.boot_fleet import Fleet, boot_settings

MIB = 1 << 20
MACHINES = 200


def read_from_disk() -> int:
    """Bytes that this process has made the kernel fetch from disks (proc(5), `read_bytes`)."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    raise AssertionError("the kernel does not count")


def forget(path: Path) -> None:
    """Have the kernel drop what it keeps of a file in memory, so that its next reader comes to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_one_download_one_conversion_one_read(tmp_path: Path, monkeypatch: Any) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "i.qcow2"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + random.Random(1).randbytes(4 * MIB - 512))
    await asyncio.to_thread(subprocess.run, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, packed], check=True)
    done: Counter[str] = Counter()
    real = fetcher.convert

    async def convert(*args: Any, **more: Any) -> None:
        done["conversions"] += 1
        await real(*args, **more)

    monkeypatch.setattr(fetcher, "convert", convert)

    async def image(_: web.Request) -> web.StreamResponse:
        done["downloads"] += 1
        return web.FileResponse(packed)

    app = web.Application()
    app.router.add_get("/i.qcow2", image)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fleet, settings = Fleet(), boot_settings(tmp_path)
    cache = ImageCache(settings.images, tmp_path)
    server = BootHttp(fleet, BootFiles(fleet, settings, cache.image_for), settings)
    await server.start()
    try:
        request = ImageRequest(
            f"http://127.0.0.1:{runner.addresses[0][1]}/i.qcow2", "sha256", hashlib.sha256(packed.read_bytes()).hexdigest()
        )
        nodes = [fleet.boot(fleet.add(f"52:54:00:00:01:{number:02x}")) for number in range(MACHINES)]
        found = await asyncio.gather(*(cache.fetch(request, holder=node.uuid) for node in nodes))
        assert done == {"downloads": 1, "conversions": 1}
        path = found[0].path
        assert {one.path for one in found} == {path}
        for node in nodes:
            told = {**node.driver_internal_info, "deploy_image": {"sha512": found[0].sha512}}
            fleet.change(node, driver_internal_info=told)
        await asyncio.to_thread(forget, path)
        before = read_from_disk()
        await asyncio.gather(*(_fetched(server, node.uuid, node.driver_internal_info["boot_token"], path) for node in nodes))
        # the kernel reads ahead, and never twice what it has in memory
        assert read_from_disk() - before <= 1.5 * path.stat().st_size
        assert done == {"downloads": 1, "conversions": 1}
    finally:
        await server.close()
        await runner.cleanup()
        gc.collect()


async def _fetched(server: BootHttp, node: str, token: str, path: Path) -> None:
    """A machine fetches its image, whole."""
    url = f"http://127.0.0.1:{server.addresses[0][1]}/boot/{node}/{token}/image"
    seen = hashlib.sha512()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client, client.get(url, raise_for_status=True) as answer:
        async for chunk in answer.content.iter_any():
            seen.update(chunk)
    assert seen.hexdigest() == path.name
