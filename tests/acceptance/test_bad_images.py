"""Deployments of images that are wrong: each fails before or without harm, says why, and can be repeated once put right."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.acceptance.conftest import Scene
from tests.support.sim_machine import MIB

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("bad images")]


@contextlib.asynccontextmanager
async def _web(folder: Path) -> AsyncIterator[str]:
    """A web server over a folder."""
    application = web.Application()
    application.router.add_static("/", folder)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_wrong_checksum(scene: Scene) -> None:
    box = await scene.box()
    await scene.lab.deploy(scene.api, box, scene.image, image_os_hash_value=hashlib.sha256(b"other").hexdigest())
    await scene.fails(box, "deploy failed", "sha256", "checksum")
    assert box.bmc.counters.power_on == 0
    await scene.recovers(box)


async def test_image_that_is_not_there(scene: Scene) -> None:
    box = await scene.box()
    image = scene.lab.image(name="wanted.raw", seed=2)  # one that no other test has brought into the cache
    async with _web(scene.lab.folder / "files") as url:
        await scene.lab.deploy(scene.api, box, image, image_source=f"{url}/no-such.raw")
        await scene.fails(box, "deploy failed", "404", "no-such.raw")
        assert box.bmc.counters.power_on == 0
        await scene.recovers(box, image, image_source=f"{url}/wanted.raw")


async def test_file_outside_the_roots(scene: Scene) -> None:
    box = await scene.box()
    image = scene.lab.image(name="inside.raw", seed=3)
    await scene.lab.deploy(scene.api, box, image, image_source="file:///etc/passwd")
    await scene.fails(box, "deploy failed", "/etc/passwd", "file_roots")
    await scene.recovers(box, image)


async def test_image_larger_than_the_disk(scene: Scene) -> None:
    box = await scene.box(disk_size=4 * MIB)
    large = scene.lab.image(6 * MIB, "large.raw")
    await scene.lab.deploy(scene.api, box, large)
    await scene.fails(box, "deploy failed", "disk")
    assert box.machine.counters.writes_started == 0
    assert not box.bmc.power
    await scene.recovers(box)


async def test_image_that_lies_about_its_format(scene: Scene) -> None:
    box = await scene.box()
    await scene.lab.deploy(scene.api, box, scene.image, image_disk_format="qcow2")
    await scene.fails(box, "deploy failed", "qcow2", "raw")
    assert box.bmc.counters.power_on == 0
    await scene.recovers(box)


async def test_qcow2_with_a_backing_file(scene: Scene) -> None:
    box = await scene.box()
    trap = scene.lab.folder / "files" / "trap.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", trap], check=True)
    digest = hashlib.sha256(trap.read_bytes()).hexdigest()
    await scene.lab.deploy(scene.api, box, scene.image, image_source=trap.as_uri(), image_os_hash_value=digest, image_disk_format="qcow2")
    await scene.fails(box, "deploy failed", "backing")
    assert box.bmc.counters.power_on == 0
    await scene.recovers(box)


async def test_hints_that_match_no_disk(scene: Scene) -> None:
    box = await scene.box()
    await scene.api.patch(box.node, properties={"root_device": {"serial": "not-this-one"}})
    await scene.lab.deploy(scene.api, box, scene.image)
    await scene.fails(box, "deploy failed", "serial", "sda")
    assert box.machine.counters.writes_started == 0
    await scene.api.patch(box.node, properties={})
    await scene.recovers(box)


async def test_image_source_that_is_missing(scene: Scene) -> None:
    box = await scene.box()
    await scene.api.patch(box.node, instance_info={})
    checked = await scene.api.ask("GET", f"/v1/nodes/{box.node}/validate")
    assert checked["deploy"]["result"] is False
    assert "image_source" in checked["deploy"]["reason"]
