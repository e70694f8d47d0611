"""metald's ramdisk of the Ironic Python Agent in a virtual machine: inspected, cleaned, deployed, rescued, by the agent inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.agent_machine import HOST, AgentMachine
from tests.support.daemon import Daemon, free_port
from tests.support.daemon import api as calling

RAMDISK = Path("build/agent")
MIB = 1 << 20
PATIENCE = 1200.0
"""Seconds that a step may take on a busy machine without KVM."""

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not os.environ.get("METALD_TEST_AGENT_RAMDISK"), reason="`make test-agent-ramdisk` runs it"),
]


def image(path: Path, size: int = 8 * MIB) -> bytes:
    """A whole-disk image: a DOS partition table with one partition, and random bytes."""
    data = bytearray(random.Random(3).randbytes(size))
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    data[440:512] = bytes(6) + entry + bytes(48) + b"\x55\xaa"
    data[512:MIB] = bytes(MIB - 512)
    path.write_bytes(data)
    return bytes(data)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    (tmp_path / "files").mkdir()
    api_port, boot_port = free_port(), free_port()
    settings = {
        "api.listen": f"127.0.0.1:{api_port}",
        "agent.api_url": f"http://{HOST}:{api_port}",
        "boot.http_listen": f"127.0.0.1:{boot_port}",
        "boot.http_url": f"http://{HOST}:{boot_port}",
        "boot.ramdisk_dir": RAMDISK.absolute(),
        "images.file_roots": tmp_path / "files",
        "drivers.ipmi.power_poll": 0.2,
        "agent.clean_step_priorities": "deploy.erase_devices:0",
    }
    async with Daemon(tmp_path / "daemon", settings) as made:
        await made.start()
        yield made
    made.assert_clean()


async def test_the_agent_inspects_cleans_deploys_and_rescues(daemon: Daemon, tmp_path: Path) -> None:
    data = image(tmp_path / "files" / "image.raw")
    machine = AgentMachine(tmp_path / "machine", RAMDISK.absolute(), daemon.boot_url, "52:54:00:00:bb:01")
    interfaces = {"deploy_interface": "direct", "boot_interface": "ipxe", "inspect_interface": "agent", "rescue_interface": "agent"}
    async with machine.plugged(), calling(daemon) as api:
        node = await api.create(driver="ipmi", driver_info=machine.driver_info(), **interfaces)
        try:
            await api.port(node, machine.mac)
            await api.provision(node, "manage")
            await api.wait(node, "manageable")
            await api.provision(node, "inspect")
            await api.wait(node, "manageable", timeout=PATIENCE)
            found = (await api.ask("GET", f"/v1/nodes/{node}/inventory"))["inventory"]
            assert [card["mac_address"] for card in found["interfaces"] if card["name"] != "lo"] == [machine.mac]
            assert [disk["size"] for disk in found["disks"]] == [5 << 30]
            await api.provision(node, "provide")
            await api.wait(node, "available", timeout=PATIENCE)
            await api.patch(node, instance_info={"image_source": f"file://{tmp_path}/files/image.raw"})
            await api.provision(node, "active")
            await api.wait(node, "active", timeout=PATIENCE)
            with machine.disk.open("rb") as disk:
                assert disk.read(len(data)) == data
            assert machine.disk_boots == 1
            await api.provision(node, "rescue", rescue_password="correct horse")
            await api.wait(node, "rescue", timeout=PATIENCE)
            assert (await _as_rescue(machine.ssh_port, "correct horse")).split() == ["rescue", "root"]
            await api.provision(node, "unrescue")
            await api.wait(node, "active", timeout=PATIENCE)
            assert machine.disk_boots == 2
        except AssertionError:
            print(machine.said()[-20_000:])
            raise


async def _as_rescue(port: int, password: str) -> str:
    """What the machine says to somebody who logs in by the password."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError, asyncssh.Error):
                async with asyncssh.connect(
                    "127.0.0.1",
                    port,
                    username="rescue",
                    password=password,
                    known_hosts=None,
                    config=None,
                    agent_path=None,
                    client_keys=None,
                    login_timeout=60,
                ) as connection:
                    done = await connection.run("id -un; sudo id -un", check=True)
                    return str(done.stdout)
            await asyncio.sleep(1)
