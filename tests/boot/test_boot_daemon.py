"""The boot servers and the doctor in a real daemon: what a machine loads, and what the API says of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metald.sim.tftp import fetch
from tests.support.boot_fleet import MAC
from tests.support.daemon import Api, Daemon, Refused, free_port
from tests.support.daemon import api as calling

DASHED = MAC.replace(":", "-")


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("kernel", "ramdisk"):
        (files / name).write_bytes(name.encode() * 1000)
    settings = {"boot.tftp_listen": f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "images.file_roots": files, "boot.quiet_time": 0.5}
    async with Daemon(tmp_path / "daemon", settings) as made:
        await made.start()
        yield made
    made.assert_clean()


async def booting(api: Api, files: Path) -> str:
    """A node that waits for its ramdisk."""
    node = await api.create(
        driver="fake-hardware",
        boot_interface="ipxe",
        deploy_interface="direct",
        driver_info={"deploy_kernel": (files / "kernel").as_uri(), "deploy_ramdisk": (files / "ramdisk").as_uri()},
    )
    await api.port(node, MAC)
    await api.provision(node, "manage")
    await api.wait(node, "manageable")
    await api.provision(node, "provide")
    await api.wait(node, "clean wait")
    return node


async def boots(api: Api, path: str, files: int) -> list[dict[str, Any]]:
    """What the doctor has seen, once it has seen so many files."""
    async with asyncio.timeout(30):
        while True:
            found: list[dict[str, Any]] = (await api.ask("GET", path))["boots"]
            if found and len(found[0]["files"]) >= files:
                return found
            await asyncio.sleep(0.05)


async def test_a_boot_as_the_api_tells_of_it(daemon: Daemon, tmp_path: Path) -> None:
    tftp = ("127.0.0.1", int(str(daemon.settings["boot.tftp_listen"]).rpartition(":")[2]))
    async with calling(daemon) as api, aiohttp.ClientSession(daemon.boot_url) as web:
        node = await booting(api, tmp_path / "files")
        script = await (await web.get(f"/boot/ipxe?mac={DASHED}")).text()
        kernel = next(line for line in script.splitlines() if line.startswith("kernel ")).split()[3]
        name = kernel.removeprefix(f"{daemon.boot_url}/")
        token = name.split("/")[2]
        assert (await fetch(tftp, name, blksize=1468, windowsize=4)).data == b"kernel" * 1000
        found = await boots(api, f"/v1/nodes/{node}/boots", 2)
        assert len(found) == 1
        assert (found[0]["node_uuid"], found[0]["stage"], found[0]["addresses"]) == (node, "kernel", ["127.0.0.1"])
        assert found[0]["powered_on_at"] is not None
        assert [(each["by"], each["file"], each["bytes"]) for each in found[0]["files"]] == [
            ("http", "boot/ipxe", len(script)),
            ("tftp", f"boot/{node}/deploy_kernel", 6000),
        ]
        assert (found[0]["files"][1]["blksize"], found[0]["files"][1]["windowsize"]) == (1468, 4)
        assert token not in str(found)
        assert [each["node_uuid"] for each in await boots(api, "/v1/boots", 2)] == [node]
        assert (await boots(api, f"/v1/boots/{DASHED}", 2))[0]["node_uuid"] == node
        # It says nothing more: the doctor tells of it, in the time-line too.
        async with asyncio.timeout(60):
            while True:
                timeline = (await api.ask("GET", f"/v1/nodes/{node}/timeline"))["timeline"]
                stopped = [event["data"] for event in timeline if event["type"] == "node.boot_stopped"]
                if any(each["stage"] == "kernel" for each in stopped):
                    break
                await asyncio.sleep(0.1)
        assert stopped[-1]["cause"] == "kernel"
        assert "did not load kernel and initramfs whole" in stopped[-1]["error"]
        (report,) = await boots(api, f"/v1/nodes/{node}/boots", 2)
        assert (report["cause"], report["likely"]) == ("kernel", stopped[-1]["error"])
        assert report["stopped_for"] > 0.2


async def test_machines_that_are_no_nodes(daemon: Daemon) -> None:
    stranger = "52:54:00:00:00:99"
    async with calling(daemon) as api, aiohttp.ClientSession(daemon.boot_url) as web:
        await (await web.get(f"/boot/ipxe?mac={stranger}")).read()
        async with asyncio.timeout(30):
            while not (found := (await api.ask("GET", "/v1/boots"))["boots"]):
                await asyncio.sleep(0.05)
        assert (found[0]["node_uuid"], found[0]["mac"]) == (None, [stranger])
        assert (await api.ask("GET", f"/v1/boots/{stranger}"))["boots"][0]["mac"] == [stranger]
        for wrong, status in (("nonsense", 400), ("52:54:00:00:00:77", 404)):
            with pytest.raises(Refused) as refused:
                await api.ask("GET", f"/v1/boots/{wrong}")
            assert refused.value.status == status


async def test_what_was_seen_outlives_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    async with calling(daemon) as api, aiohttp.ClientSession(daemon.boot_url) as web:
        node = await booting(api, tmp_path / "files")
        await (await web.get(f"/boot/ipxe?mac={DASHED}")).read()
        await boots(api, f"/v1/nodes/{node}/boots", 1)
    await daemon.kill()
    await daemon.start()
    async with calling(daemon) as api:
        for path in (f"/v1/nodes/{node}/boots", "/v1/boots"):
            assert (await boots(api, path, 1))[0]["node_uuid"] == node
