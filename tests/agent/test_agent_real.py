"""The unmodified ironic-python-agent from PyPI, as processes of this host, through deployments and cleanings."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
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
COUNT = int(os.environ.get("METALD_TEST_AGENTS", "4"))
pytestmark = [pytest.mark.skipif(not PYTHON.exists(), reason="`make agent` has not been run")]


def image(path: Path, size: int = 4 * MIB) -> bytes:
    """A whole-disk image: a DOS partition table with one partition, and random bytes."""
    data = bytearray(random.Random(7).randbytes(size))
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    data[440:512] = bytes(6) + entry + bytes(48) + b"\x55\xaa"
    data[512 : 4 * MIB // 4] = bytes(MIB - 512)
    path.write_bytes(data)
    return bytes(data)


LOOPS = os.geteuid() == 0 and Path("/dev/loop-control").exists()
"""Whether agents may have loop devices as their disks."""
slow = pytest.mark.skipif(not os.environ.get("METALD_TEST_AGENT"), reason="`make test-agent` runs it")


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

    async def machine(self, number: int, *, loop: bool = False, disk_size: int = 32 * MIB) -> IpaMachine:
        made = IpaMachine(self.folder / f"m{number}", self.daemon.boot_url, f"52:54:00:00:aa:{number:02x}", disk_size, loop=loop)
        return await self._stack.enter_async_context(made.plugged())

    async def enrol(self, api: Api, machine: IpaMachine, **fields: Any) -> None:
        machine.node = await api.create(
            driver="ipmi",
            deploy_interface="direct",
            boot_interface="ipxe",
            inspect_interface="agent",
            rescue_interface="agent",
            driver_info=machine.driver_info(),
            **fields,
        )
        await api.port(machine.node, machine.mac)
        await api.provision(machine.node, "manage")
        await api.wait(machine.node, "manageable")


@pytest.fixture
def settings() -> dict[str, object]:
    """Further settings of the daemon."""
    return {}


@pytest.fixture
async def site(tmp_path: Path, settings: dict[str, object]) -> AsyncIterator[Site]:
    (tmp_path / "ramdisk").mkdir()
    for name in ("kernel", "initramfs"):
        (tmp_path / "ramdisk" / name).write_bytes(name.encode())
    (tmp_path / "files").mkdir()
    chosen = {
        "boot.ramdisk_dir": tmp_path / "ramdisk",
        "images.file_roots": tmp_path / "files",
        "conductor.retry_delay": 0.05,
        "conductor.automated_clean": "false",
        "drivers.ipmi.power_poll": 0.02,
        "agent.command_timeout": 3,
        "agent.power_off_timeout": 60,
        **settings,
    }
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(Daemon(tmp_path / "daemon", chosen))
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


async def deploy(site: Site, api: Api, machine: IpaMachine, name: str, data: bytes, **info: Any) -> None:
    """Ask for a deployment of a file of the image server."""
    told = {
        "image_source": f"{site.images_url}/{name}",
        "image_checksum": hashlib.sha256((site.files / name).read_bytes()).hexdigest(),
        **info,
    }
    await api.patch(machine.node, instance_info=told)
    await api.provision(machine.node, "active")


async def available(site: Site, api: Api, machine: IpaMachine) -> None:
    await site.enrol(api, machine)
    await api.provision(machine.node, "provide")
    await api.wait(machine.node, "available")


async def events(api: Api, machine: IpaMachine, kind: str) -> list[dict[str, Any]]:
    found = await api.ask("GET", f"/v1/nodes/{machine.node}/timeline")
    return [event["data"] for event in found["timeline"] if event["type"] == kind]


async def until(machine: IpaMachine, line: str, timeout: float = 60) -> None:
    """Wait until the agent's hardware manager has done something."""
    async with asyncio.timeout(timeout):
        while line not in machine.done():
            await asyncio.sleep(0.05)


async def test_a_raw_image_is_deployed(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await available(site, api, machine)
        await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        node = await api.wait(machine.node, "active")
        assert machine.disk.read_bytes()[: len(data)] == data
        await machine.until(lambda m: m.disk_boots == 1)
        assert machine.done() == ["tune", "sync"]
        assert node["driver_internal_info"].get("agent_secret_token") is None
        beats = await events(api, machine, "node.heartbeat")
        assert beats
        assert beats[0]["url"] == f"https://127.0.0.1:{machine.port}"


@slow
@pytest.mark.skipif(not LOOPS, reason="loop devices are root's")
async def test_a_qcow2_image_and_one_from_metalds_cache_are_deployed(site: Site) -> None:
    """And one whose checksum stands in a file beside it."""
    data = image(site.files / "image.raw")
    (site.files / "SHA256SUMS").write_text(f"{'0' * 64}  other.raw\n{hashlib.sha256(data).hexdigest()}  image.raw\n")
    argv = ("qemu-img", "convert", "-O", "qcow2", str(site.files / "image.raw"), str(site.files / "image.qcow2"))
    assert await (await asyncio.create_subprocess_exec(*argv)).wait() == 0
    first, second, third = await site.machine(1, loop=True), await site.machine(2), await site.machine(3)
    async with calling(site.daemon) as api:
        for machine in (first, second, third):
            await available(site, api, machine)
        await deploy(site, api, first, "image.qcow2", data, image_disk_format="qcow2")
        source = (site.files / "image.qcow2").as_uri()
        await deploy(site, api, second, "image.qcow2", data, image_source=source, image_disk_format="qcow2")
        await deploy(site, api, third, "image.raw", data, image_disk_format="raw", image_checksum=f"{site.images_url}/SHA256SUMS")
        for machine in (first, second, third):
            await api.wait(machine.node, "active", timeout=120)
            assert machine.disk.read_bytes()[: len(data)] == data


@slow
@pytest.mark.timeout(900)
async def test_metald_is_killed_twice_while_agents_work(site: Site) -> None:
    """Several machines at once (METALD_TEST_AGENTS); every command is given once, and every disk is written once."""
    data = image(site.files / "image.raw")
    machines = [await site.machine(number, loop=LOOPS) for number in range(1, COUNT + 1)]
    async with calling(site.daemon) as api:
        for machine in machines:
            await available(site, api, machine)
        site.gate.clear()
        for machine in machines:
            await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        await asyncio.wait_for(site.asked.wait(), 240)
    await site.daemon.kill()
    await site.daemon.start()
    async with calling(site.daemon) as api:
        site.gate.set()
        await until(machines[0], "tune", 240)
    await site.daemon.kill()
    await site.daemon.start()
    async with calling(site.daemon) as api:
        for machine in machines:
            await api.wait(machine.node, "active", timeout=240)
            assert machine.disk.read_bytes()[: len(data)] == data
            assert machine.boots == 1
            assert machine.done().count("tune") == 1
            assert machine.output().count("Asynchronous command prepare_image started") == 1


@slow
async def test_an_agent_that_dies_while_it_writes_is_booted_again(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await available(site, api, machine)
        site.gate.clear()
        await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        await asyncio.wait_for(site.asked.wait(), 60)
        machine.kill_agent()
        site.gate.set()
        await api.wait(machine.node, "active", timeout=120)
        assert machine.disk.read_bytes()[: len(data)] == data
        assert machine.boots == 2
        assert await events(api, machine, "node.agent_lost")


@slow
async def test_cleaning_goes_through_the_agents_steps(site: Site) -> None:
    """Killed in the middle, in front of an agent that dies, and one whose hardware managers change."""
    machine = await site.machine(1)
    (machine.folder / "slow").touch()
    async with calling(site.daemon) as api:
        await site.enrol(api, machine, automated_clean=True)
        await api.provision(machine.node, "provide")
        await until(machine, "slow began")
        await site.daemon.kill()
    await site.daemon.start()
    async with calling(site.daemon) as api:
        assert (await api.node(machine.node))["clean_step"]["step"] == "slow"
        machine.kill_agent()
        await machine.until(lambda m: m.boots == 2, timeout=60)
        (machine.folder / "slow").unlink()
        await api.wait(machine.node, "available", timeout=120)
        assert machine.done() == ["erase_devices_metadata", "slow began", "slow began", "slow", "erase_devices"]
        await api.provision(machine.node, "manage")
        await api.wait(machine.node, "manageable")
        wanted = {"interface": "deploy", "step": "update_firmware", "args": {"level": "high"}}
        later = {"interface": "deploy", "step": "erase_devices_metadata"}
        await api.provision(machine.node, "clean", clean_steps=[wanted, later])
        await api.wait(machine.node, "manageable", timeout=120)
        assert machine.done()[-2:] == ["update_firmware high", "erase_devices_metadata"]
        assert machine.boots == 4


@slow
async def test_a_failure_keeps_the_agents_logs(site: Site) -> None:
    image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await available(site, api, machine)
        await deploy(site, api, machine, "image.raw", b"", image_disk_format="raw", image_checksum="0" * 64)
        node = await api.wait(machine.node, "deploy failed", timeout=120)
        assert "checksum" in node["last_error"].lower()
        kept = await events(api, machine, "node.agent_logs")
        assert Path(kept[0]["file"]).stat().st_size == kept[0]["bytes"]
        assert Path(kept[0]["file"]).stat().st_mode & 0o777 == 0o600


@slow
@pytest.mark.skipif(not LOOPS, reason="loop devices are root's")
async def test_a_disk_that_is_smaller_than_the_image_fails_with_the_reason(site: Site) -> None:
    """Whether the agent streams the image, or converts it."""
    data = image(site.files / "image.raw", 8 * MIB)
    argv = ("qemu-img", "convert", "-O", "qcow2", str(site.files / "image.raw"), str(site.files / "image.qcow2"))
    assert await (await asyncio.create_subprocess_exec(*argv)).wait() == 0
    streams, converts = await site.machine(1, loop=True, disk_size=4 * MIB), await site.machine(2, loop=True, disk_size=4 * MIB)
    async with calling(site.daemon) as api:
        for machine in (streams, converts):
            await available(site, api, machine)
        await deploy(site, api, streams, "image.raw", data, image_disk_format="raw")
        await deploy(site, api, converts, "image.qcow2", data, image_disk_format="qcow2")
        for machine, why in ((streams, "No space left on device"), (converts, "Cannot grow device files")):
            node = await api.wait(machine.node, "deploy failed", timeout=120)
            assert why in node["last_error"]
            assert (machine.disk_boots, node["power_state"]) == (0, "power off")


@slow
async def test_a_machine_is_inspected_and_what_was_found_is_kept(site: Site) -> None:
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await site.enrol(api, machine)
        await api.provision(machine.node, "inspect")
        node = await api.wait(machine.node, "manageable", timeout=120)
        assert node["properties"]["cpu_arch"] == "x86_64"
        assert node["power_state"] == "power off"
        assert node["driver_internal_info"].get("boot_token") is None
        found = await api.ask("GET", f"/v1/nodes/{machine.node}/inventory")
        assert [card["mac_address"] for card in found["inventory"]["interfaces"]] == [machine.mac]
        assert found["inventory"]["disks"][0]["size"] == machine.disk.stat().st_size
        assert machine.boots == 1


@slow
async def test_a_machine_is_rescued_and_unrescued(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await available(site, api, machine)
        await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        await api.wait(machine.node, "active", timeout=120)
        await machine.until(lambda m: m.disk_boots == 1)
        await api.ask("PUT", f"/v1/nodes/{machine.node}/states/provision", {"target": "rescue", "rescue_password": "let me in"})
        node = await api.wait(machine.node, "rescue", timeout=120)
        assert (machine.folder / "ipa-rescue-password").read_text().startswith("$6$")
        assert "let me in" not in machine.output()
        assert not {"rescue_password", "hashed_rescue_password"} & set(node["instance_info"])
        await api.provision(machine.node, "unrescue")
        await api.wait(machine.node, "active", timeout=120)
        await machine.until(lambda m: m.disk_boots == 2)
        assert machine.boots == 2


@slow
async def test_burn_in_and_service_are_steps_of_the_agent(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await site.enrol(api, machine)
        burning = {
            "agent_burnin_cpu_timeout": "7",
            "agent_burnin_cpu_cpu": 2,
            "agent_burnin_vm_timeout": 5,
            "agent_burnin_fio_disk_runtime": 3,
            "agent_burnin_fio_network_runtime": 4,
            "agent_burnin_fio_network_config": {"role": "writer", "partner": "192.0.2.11"},
        }
        await api.patch(machine.node, driver_info=machine.driver_info(**burning))
        steps = [{"interface": "deploy", "step": f"burnin_{what}"} for what in ("cpu", "memory", "disk", "network")]
        await api.provision(machine.node, "clean", clean_steps=steps)
        await api.wait(machine.node, "manageable", timeout=120)
        cpu, memory, disk, writes, reads = (line.split() for line in machine.ran() if not line.startswith("podman"))
        assert {"--cpu", "2", "--timeout", "7"} <= set(cpu)
        assert {"--vm", "--timeout", "5"} <= set(memory)
        assert {"readwrite", "--runtime", "3"} <= set(disk)
        assert {"writer", "--runtime", "4"} <= set(writes)
        assert {"reader", "--hostname", "192.0.2.11"} <= set(reads)
        await api.provision(machine.node, "provide")
        await api.wait(machine.node, "available")
        await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        await api.wait(machine.node, "active", timeout=120)
        await machine.until(lambda m: m.disk_boots == 1)
        await api.provision(machine.node, "service", service_steps=[{"interface": "deploy", "step": "burnin_memory"}])
        await machine.until(lambda m: m.boots == 3, timeout=120)
        await api.wait(machine.node, "active", timeout=120)
        assert "--vm" in machine.ran()[-1]
        assert machine.disk.read_bytes()[: len(data)] == data
        await machine.until(lambda m: m.disk_boots == 2)


@slow
async def test_a_container_installs_itself(site: Site) -> None:
    machine = await site.machine(1)
    data = image(machine.folder / "os.raw")
    async with calling(site.daemon) as api:
        await available(site, api, machine)
        info = {"image_source": "oci://registry.example/os:1", "image_pull_secret": "user:password"}
        await api.patch(machine.node, deploy_interface="bootc", instance_info=info)
        await api.provision(machine.node, "active")
        await api.wait(machine.node, "active", timeout=120)
        pulled, ran = (line for line in machine.ran() if "registry.example" in line)
        assert pulled.startswith("podman pull --authfile=")
        assert "registry.example/os:1 bootc install to-disk" in ran
        assert "password" not in machine.output()
        assert machine.disk.read_bytes()[: len(data)] == data
        await machine.until(lambda m: m.disk_boots == 1)


@slow
@pytest.mark.parametrize("settings", [{"agent.fast_track": "true"}])
async def test_an_agent_that_stays_does_the_next_work_too(site: Site) -> None:
    data = image(site.files / "image.raw")
    machine = await site.machine(1)
    async with calling(site.daemon) as api:
        await site.enrol(api, machine, automated_clean=True)
        await api.provision(machine.node, "inspect")
        await api.wait(machine.node, "manageable", timeout=120)
        async with asyncio.timeout(120):
            while not (await api.node(machine.node))["driver_internal_info"].get("agent_last_heartbeat"):
                await asyncio.sleep(0.05)
        await api.provision(machine.node, "provide")
        node = await api.wait(machine.node, "available", timeout=120)
        assert node["power_state"] == "power on"
        await deploy(site, api, machine, "image.raw", data, image_disk_format="raw")
        await api.wait(machine.node, "active", timeout=120)
        assert machine.disk.read_bytes()[: len(data)] == data
        assert machine.done() == ["erase_devices_metadata", "slow began", "slow", "erase_devices", "tune", "sync"]
        await machine.until(lambda m: m.disk_boots == 1)
        assert machine.boots == 1
