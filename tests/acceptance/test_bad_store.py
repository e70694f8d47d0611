"""A database that is locked or gone, and disks that are full: writes are refused in words, reads go on, deployments wait."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Scene
from tests.support.daemon import Refused, api
from tests.support.postgres import PrivatePostgres, available
from tests.support.sim_machine import MIB, Box, lab


@contextlib.asynccontextmanager
async def _scene(folder: Path, program: Path, **settings: object) -> AsyncIterator[Scene]:
    """A daemon of the test's own; names of settings with __ for the dot."""
    named = {name.replace("__", "."): value for name, value in settings.items()}
    async with lab(folder, program, {"store.timeout": 0.3, **named}) as made:
        await made.daemon.start()
        async with api(made.daemon) as client:
            yield Scene(made, client, made.image())
            assert await made.daemon.stop() == 0


async def _under_way(scene: Scene) -> Box:
    """A deployment that waits for its machine, which boots when `posted` is set."""
    box = await scene.box()
    box.machine.faults.posted.clear()
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.api.wait(box.node, "wait call-back")
    return box


async def _refused_but_readable(scene: Scene, box: Box, *words: str) -> None:
    """Writes answer 503 and say why; reads and the health check go on."""
    with pytest.raises(Refused) as refused:
        await scene.api.patch(box.node, extra={"changed": "no"})
    assert refused.value.status == 503
    for word in words:
        assert word in refused.value.text
    assert (await scene.api.node(box.node))["extra"] == {}
    assert len((await scene.api.ask("GET", "/v1/nodes"))["nodes"]) == 1
    await scene.api.ask("GET", "/healthz")


async def _arrives(scene: Scene, box: Box) -> None:
    await scene.api.wait(box.node, "active")
    await scene.api.patch(box.node, extra={"changed": "yes"})
    await box.machine.until(lambda m: m.running == "instance")
    assert scene.image.is_on(box.machine.disk)
    assert box.bmc.counters.power_on == 2
    assert box.machine.report()["writes_started"] == 1


async def test_database_that_somebody_else_locks(tmp_path: Path, ramdisk_program: Path) -> None:
    async with _scene(tmp_path, ramdisk_program) as scene:
        box = await _under_way(scene)
        with contextlib.closing(sqlite3.connect(scene.lab.daemon.state_dir / "metald.sqlite", isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            box.machine.faults.posted.set()
            await _refused_but_readable(scene, box, "locked")
            await box.machine.until(lambda m: m.running == "ramdisk")
            outsider.execute("ROLLBACK")
        await _arrives(scene, box)


async def test_database_that_is_locked_while_an_image_is_written(tmp_path: Path, ramdisk_program: Path) -> None:
    async with _scene(tmp_path, ramdisk_program) as scene:
        box = await scene.box()
        box.machine.faults.holds_at = MIB
        await scene.lab.deploy(scene.api, box, scene.image)
        await box.machine.faults.held.wait()
        with contextlib.closing(sqlite3.connect(scene.lab.daemon.state_dir / "metald.sqlite", isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            box.machine.go_on()
            await _refused_but_readable(scene, box, "locked")
            outsider.execute("ROLLBACK")
        await _arrives(scene, box)


@pytest.mark.postgres
async def test_postgresql_that_goes_and_comes_back(tmp_path: Path, ramdisk_program: Path) -> None:
    if not available():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    server = PrivatePostgres()
    try:
        await asyncio.to_thread(server.create)
        await asyncio.to_thread(server.start)
        url = server.url(await asyncio.to_thread(server.fresh_database))
        async with _scene(tmp_path, ramdisk_program, store__url=url) as scene:
            box = await _under_way(scene)
            await asyncio.to_thread(server.kill)
            box.machine.faults.posted.set()
            await _refused_but_readable(scene, box, "database")
            await asyncio.to_thread(server.start)
            await _arrives(scene, box)
    finally:
        await asyncio.to_thread(server.remove)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", path], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def _fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


async def test_full_disk_in_the_image_cache(tmp_path: Path, ramdisk_program: Path, small_disk: Path) -> None:
    async with _scene(tmp_path, ramdisk_program, images__cache_dir=small_disk / "cache") as scene:
        box = await scene.box()
        large = scene.lab.image(12 * MIB, "large.raw")
        await scene.lab.deploy(scene.api, box, large)
        await scene.fails(box, "deploy failed", "bytes left", str(small_disk), "images.cache_dir")
        assert box.bmc.counters.power_on == 0
        assert not list((small_disk / "cache" / "raw").glob("*"))
        await scene.recovers(box)


async def test_full_disk_under_the_database(tmp_path: Path, ramdisk_program: Path, small_disk: Path) -> None:
    images = tmp_path / "images"
    async with _scene(tmp_path, ramdisk_program, state_dir=small_disk / "state", images__cache_dir=images) as scene:
        box = await _under_way(scene)
        ballast = _fill(small_disk)
        box.machine.faults.posted.set()
        for _ in range(20):  # what space the log already has is used up first
            try:
                await scene.api.patch(box.node, extra={})
            except Refused:
                break
        await _refused_but_readable(scene, box, "full")
        ballast.unlink()
        await _arrives(scene, box)
