"""The unmodified ironic-python-agent from PyPI, as processes of this host, through deployments and cleanings."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.daemon import Api, Daemon
from tests.support.daemon import api as calling
from tests.support.ipa import PYTHON, IpaMachine

MIB = 1 << 20
pytestmark = [pytest.mark.skipif(not PYTHON.exists(), reason="`make agent` has not been run")]


def image(path: Path, size: int = 4 * MIB) -> bytes:
    """A whole-disk image: a DOS partition table with one partition, and random bytes."""
    data = bytearray(random.Random(7).randbytes(size))
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    data[440:512] = bytes(6) + entry + bytes(48) + b"\x55\xaa"
    data[512 : 4 * MIB // 4] = bytes(MIB - 512)
    path.write_bytes(data)
    return bytes(data)


class Site:
    """A daemon, an image server, and machines."""

    def __init__(self, folder: Path, daemon: Daemon, stack: contextlib.AsyncExitStack) -> None:
        self.folder, self.daemon, self._stack = folder, daemon, stack
        self.files = folder / "files"
        self.images_url = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        data = (self.files / request.match_info["name"]).read_bytes()
        answer = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await answer.prepare(request)
        await answer.write(data[: len(data) // 2])
        self.asked.set()
        await self.gate.wait()
        await answer.write(data[len(data) // 2 :])
        return answer

    async def machine(self, number: int) -> IpaMachine:
        made = IpaMachine(self.folder / f"m{number}", self.daemon.boot_url, f"52:54:00:00:aa:{number:02x}")
        return await self._stack.enter_async_context(made.plugged())

    async def enrol(self, api: Api, machine: IpaMachine, **fields: Any) -> None:
        machine.node = await api.create(
            driver="ipmi", deploy_interface="direct", boot_interface="ipxe", driver_info=machine.driver_info(), **fields
        )
        await api.port(machine.node, machine.mac)
        await api.provision(machine.node, "manage")
        await api.wait(machine.node, "manageable")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "ramdisk").mkdir()
    for name in ("kernel", "initramfs"):
        (tmp_path / "ramdisk" / name).write_bytes(name.encode())
    (tmp_path / "files").mkdir()
    settings = {
        "boot.ramdisk_dir": tmp_path / "ramdisk",
        "images.file_roots": tmp_path / "files",
        "conductor.retry_delay": 0.05,
        "conductor.automated_clean": "false",
        "drivers.ipmi.power_poll": 0.02,
        "agent.command_timeout": 3,
        "agent.power_off_timeout": 20,
    }
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(Daemon(tmp_path / "daemon", settings))
        made = Site(tmp_path, daemon, stack)
        app = web.Application()
        app.router.add_get("/{name}", made.serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.images_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await daemon.start()
        yield made
    daemon.assert_clean()


async def test_a_raw_image_is_deployed(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await site.enrol(api, machine)
        await api.provision(machine.node, "provide")
        await api.wait(machine.node, "available")
        info = {
            "image_source": f"{site.images_url}/image.raw",
            "image_checksum": hashlib.sha256(data).hexdigest(),
            "image_disk_format": "raw",
        }
        await api.patch(machine.node, instance_info=info)
        await api.provision(machine.node, "active")
        try:
            await api.wait(machine.node, "active", timeout=45)
        finally:
            print(machine.output()[-6000:])
    assert machine.disk.read_bytes()[: len(data)] == data
    assert machine.disk_boots == 1
    assert machine.done().count("tune") == 1
