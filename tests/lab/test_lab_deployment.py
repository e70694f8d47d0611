"""The main job on a virtual machine behind a real BMC: metald is killed while it writes the image, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, LabMachine
from lab.daemon import Daemon, free_port
from lab.demo import settings_for
from lab.prepare import Prepared, prepare
from lab.process import LabError, run

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]


async def _until(daemon: Daemon, name: str, what: Callable[[dict[str, Any]], bool], seconds: float = 300.0) -> dict[str, Any]:
    node: dict[str, Any] = {}
    try:
        async with asyncio.timeout(seconds):
            while True:
                node = await daemon.get(f"/v1/nodes/{name}")
                if what(node):
                    return node
                assert not node["last_error"], node["last_error"]
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{name} is still {node.get('provision_state')}, step {node.get('deploy_step')}")


def _is(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda node: node["provision_state"] == state


async def _enrol(daemon: Daemon, one: LabMachine, made: Prepared, more: dict[str, str]) -> None:
    node = {
        "name": one.name,
        "driver": "ipmi",
        "driver_info": {**one.driver_info, **more},
        "properties": {"root_device": {"serial": one.disk_serials[0]}},
        "instance_info": {
            "image_source": made.image.as_uri(),
            "image_disk_format": "raw",
            "image_os_hash_algo": "sha512",
            "image_os_hash_value": made.sha512,
        },
        "automated_clean": False,
    }
    uuid = (await daemon.call("POST", "/v1/nodes", node))["uuid"]
    await daemon.call("POST", "/v1/ports", {"node_uuid": uuid, "address": one.mac})
    for verb, state in (("manage", "manageable"), ("provide", "available")):
        await daemon.call("PUT", f"/v1/nodes/{one.name}/states/provision", {"target": verb})
        await _until(daemon, one.name, _is(state))


async def _login(one: LabMachine, key: Path, command: str) -> str:
    options = [
        f"-o{option}" for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5")
    ]
    async with asyncio.timeout(120):
        while True:
            if place := one.ssh():
                try:
                    return (
                        await run("ssh", "-i", str(key), *options, "-p", str(place[1]), f"root@{place[0]}", command, deadline=15)
                    ).strip()
                except LabError:
                    pass
            await asyncio.sleep(0.3)


async def test_killed_while_it_writes_and_still_one_boot_each(tmp_path: Path) -> None:
    made = await prepare(print)
    boot_port = free_port()
    async with (
        Lab(1, boot_url=f"http://10.0.2.2:{boot_port}/boot.ipxe") as lab,
        Daemon(tmp_path, settings_for(lab, made, boot_port)) as daemon,
    ):
        one = lab.machines[0]
        place = one.ssh()
        await _enrol(daemon, one, made, {"kernel_append_params": f"%default% metald.port={place[1]}"} if lab.left_out and place else {})
        drive = {"meta_data": {"hostname": "survivor", "public_keys": {"test": made.public_key}}}
        await daemon.call("PUT", f"/v1/nodes/{one.name}/states/provision", {"target": "active", "configdrive": drive})
        await _until(daemon, one.name, lambda node: node["deploy_step"].get("step") == "write_image")
        await daemon.kill()
        await daemon.start()
        await _until(daemon, one.name, _is("active"))
        assert await _login(one, made.key, "hostname") == "survivor"
        assert [str(boot.device) for boot in one.machine.boots] == ["pxe", "disk"]
        assert await daemon.stop() == 0
