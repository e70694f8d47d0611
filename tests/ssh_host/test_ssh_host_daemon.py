"""The hardware type `ssh` in a daemon: it is whole, says what is missing, and drives a real QEMU by the API; OpenSSH sees its console."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
import pytest

from metald import app, outfit
from metald.boot.fills import fills_of
from metald.config import Api, Console, Drivers, Settings
from metald.console.consoles import Consoles
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.base import Interface
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh_host.hosts import Hosts
from metald.errors import Invalid
from metald.images.cache import ImageCache
from metald.model import INTERFACES, Node
from tests.support.bmc import Context
from tests.support.daemon import free_port
from tests.support.hypervisor import hypervisor


async def test_the_type_is_whole_and_combines_with_the_other_interfaces(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), drivers=Drivers(enabled_hardware_types=["ssh"]))
    images = ImageCache(settings.images, tmp_path)
    hub, hosts, consoles = IpmiHub(settings.drivers.ipmi), Hosts(settings.drivers.ssh_host), Consoles(settings.console, tmp_path)
    registry = outfit.registry(
        settings, hub, SshDeploy(settings, images), AgentDeploy(settings, images), hosts, consoles, fills_of(settings)
    )
    for kind in INTERFACES:
        assert registry.default("ssh", kind)
    assert {registry.default("ssh", kind) for kind in ("power", "management", "console", "deploy")} == {"ssh"}
    assert {"ssh", "direct", "ramdisk"} <= set(registry.supported("ssh", "deploy"))
    assert {"ssh_address", "ssh_virt_type", "ssh_machine"} <= set(registry.properties("ssh"))
    node = Node(
        driver="ssh", name="n", driver_info={"ssh_address": "hv1", "ssh_username": "u", "ssh_password": "p", "ssh_virt_type": "virsh"}
    )
    registry.check(node)
    for kind in ("power", "management", "console"):
        interface: Interface = registry.for_node(node, kind)
        with pytest.raises(Invalid, match="ssh_machine"):
            await interface.validate(Context(node))  # type: ignore[arg-type]


@pytest.mark.qemu
async def test_by_the_api_a_machine_is_switched_on_and_its_console_is_seen_by_openssh(tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = asyncssh.generate_private_key("ssh-ed25519")
    key.write_bytes(made.export_private_key())
    key.chmod(0o600)
    (tmp_path / "keys").write_bytes(made.export_public_key())
    way_in = free_port()
    settings = Settings(
        state_dir=str(tmp_path / "state"),
        api=Api(listen=f"127.0.0.1:{free_port()}"),
        drivers=Drivers(enabled_hardware_types=["ssh"]),
        console=Console(ssh_listen=f"127.0.0.1:{way_in}", ssh_authorized_keys=str(tmp_path / "keys")),
    )
    with hypervisor() as host:
        host.start_qemu("-serial", f"unix:{host.folder}/serial,server=on,wait=off")
        info = host.context(ssh_virt_type="qemu", ssh_libvirt_uri=None, ssh_qmp_socket=f"{host.folder}/qmp").node.driver_info
        info = {**info, "ssh_terminal_socket": f"{host.folder}/serial"}
        headers = {"X-OpenStack-Ironic-API-Version": "1.115"}
        async with app.running(settings) as daemon, aiohttp.ClientSession(daemon.url, headers=headers) as http:

            async def call(method: str, path: str, body: Any = None) -> Any:
                async with http.request(method, path, json=body) as answer:
                    assert answer.status < 300, await answer.text()
                    return await answer.json() if answer.content_type == "application/json" and answer.content_length else None

            async def until(path: str, **wanted: Any) -> None:
                async with asyncio.timeout(60):
                    while not wanted.items() <= (await call("GET", path)).items():
                        await asyncio.sleep(0.05)

            await call("POST", "/v1/nodes", {"name": "vm1", "driver": "ssh", "driver_info": info})
            await call("PUT", "/v1/nodes/vm1/states/provision", {"target": "manage"})
            await until("/v1/nodes/vm1", provision_state="manageable", power_state="power off", reservation=None)
            await call("PUT", "/v1/nodes/vm1/management/boot_device", {"boot_device": "disk", "persistent": True})
            assert (await call("GET", "/v1/nodes/vm1/management/boot_device")) == {"boot_device": "disk", "persistent": True}
            await call("PUT", "/v1/nodes/vm1/states/console", {"enabled": True})
            await until("/v1/nodes/vm1", console_enabled=True)
            await call("PUT", "/v1/nodes/vm1/states/power", {"target": "power on"})
            options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path}/hosts", "IdentitiesOnly=yes", "BatchMode=yes")
            ssh = await asyncio.create_subprocess_exec(
                *("ssh", "-tt", "-F", "none", "-i", str(key), "-p", str(way_in), *(word for option in options for word in ("-o", option))),
                "vm1@127.0.0.1",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert ssh.stdout is not None
            assert ssh.stdin is not None
            async with asyncio.timeout(120):
                await ssh.stdout.readuntil(b"SeaBIOS")
                ssh.stdin.write(b"\r~.")  # OpenSSH's own way to leave
                assert await ssh.wait() == 255
            await until("/v1/nodes/vm1", power_state="power on", target_power_state=None)
            await call("PUT", "/v1/nodes/vm1/states/power", {"target": "power off"})
            await until("/v1/nodes/vm1", power_state="power off", target_power_state=None)
