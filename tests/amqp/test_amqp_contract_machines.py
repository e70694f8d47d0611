"""What machines and operators do, against the AsyncAPI document: network boots, agents, faults, consoles, power."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest

from metald.sim.enroll import Enroller
from metald.sim.rack import Options, Rack
from tests.support.bmc import free_udp_port
from tests.support.commanding import PATIENCE
from tests.support.contract import Contract
from tests.support.daemon import Daemon, api

pytestmark = pytest.mark.rabbit

MAC = "52:54:00:00:00:77"


def _settings(folder: Path, url: str, tftp: int) -> dict[str, object]:
    files = {"ramdisk/kernel": 60_000, "ramdisk/initramfs": 200_000, "ipxe/undionly.kpxe": 70_000}
    files |= {"agent/kernel": 60_000, "agent/initramfs": 200_000}
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    for name in ("hosts", "opts"):
        (folder / name).mkdir()
    return {
        "amqp.url": url,
        "amqp.retry_delay": 0.05,
        "boot.ramdisk_dir": folder / "ramdisk",
        "boot.ipxe_dir": folder / "ipxe",
        "boot.tftp_listen": f"127.0.0.1:{tftp}",
        "agent.deploy_kernel": (folder / "agent/kernel").as_uri(),
        "agent.deploy_ramdisk": (folder / "agent/initramfs").as_uri(),
        "images.file_roots": folder,
        "agent.require_tls": "false",
        "conductor.automated_clean": "false",
        "conductor.retry_delay": 0.1,
        "conductor.progress_interval": 0.01,
        "conductor.power_sync_interval": 1,
        "drivers.ipmi.power_poll": 0.1,
        "drivers.ipmi.login_timeout": 3,
        "dhcp.provider": "dnsmasq",
        "dhcp.dnsmasq_hostsdir": folder / "hosts",
        "dhcp.dnsmasq_optsdir": folder / "opts",
        "dhcp.dnsmasq_leases": folder / "leases",
    }


async def _machines(daemon: Daemon, tftp: int) -> None:
    """Four machines boot over the network and are deployed, two of them by Ironic's agent; the BMC of one dies after that."""
    given = Options(nodes=4, seed=7, boot_url=daemon.boot_url, tftp=("127.0.0.1", tftp), time_scale=0.01, post=(0.0, 1.0))
    async with Rack(given) as rack:
        blades = list(rack.blades.values())
        for chosen, interface in ((blades[:2], ""), (blades[2:], "direct")):
            async with Enroller(daemon.url, deploy_interface=interface) as enroller:
                await enroller.enroll(chosen, port=rack.ipmi_port, user="admin", password="secret")
                figures = await enroller.deploy(chosen, f"{rack.control.url}/image.raw", rack.control.image_sha256)
                assert figures.states == {"active": 2}, daemon.output()[-3000:]
        async with api(daemon) as client, asyncio.timeout(PATIENCE):
            # its address is known by now, so what it asks for over TFTP is told of the node
            await client.provision(blades[2].name, "rebuild")
            await client.wait(blades[2].name, "active", timeout=PATIENCE)
            rack.inject(blades[0].name, {"dead": True})
            while not (await client.node(blades[0].name))["fault"]:
                await asyncio.sleep(0.1)


async def _operate(daemon: Daemon, client: Any) -> str:
    """What operators do to a machine of fake-hardware. Returns its UUID."""
    uuid: str = await client.create(driver="fake-hardware", name="n1", resource_class="blue", console_interface="fake")
    await client.port(uuid, MAC)
    for target, state in (("manage", "manageable"), ("provide", "available")):
        await client.provision(uuid, target)
        await client.wait(uuid, state)
    node = f"/v1/nodes/{uuid}"
    for enabled in (True, False):
        await client.ask("PUT", f"{node}/states/console", {"enabled": enabled})
        async with asyncio.timeout(PATIENCE):
            while (await client.node(uuid))["console_enabled"] is not enabled:
                await asyncio.sleep(0.05)
    await client.wait(uuid, "available")
    await client.ask("PUT", f"{node}/management/boot_device", {"boot_device": "pxe"})
    for name, kind in (("taken", "blue"), ("none", "red")):
        made = await client.ask("POST", "/v1/allocations", {"name": name, "resource_class": kind})
        async with asyncio.timeout(PATIENCE):
            while (await client.ask("GET", f"/v1/allocations/{made['uuid']}"))["state"] == "allocating":
                await asyncio.sleep(0.05)
    (daemon.folder / "leases").write_text(f"{int(time.time()) + 3600} {MAC} 192.0.2.7 * 01:{MAC}\n")
    async with aiohttp.ClientSession() as web, web.get(f"{daemon.boot_url}/boot/ipxe?mac=aa-bb-cc-dd-ee-ff") as answer:
        assert answer.status == 200
    return uuid


async def test_what_machines_and_operators_do_is_as_the_document_says(tmp_path: Path, url: str) -> None:
    tftp = free_udp_port()
    connection = await aio_pika.connect(url)
    async with connection, Daemon(tmp_path, _settings(tmp_path, url, tftp)) as daemon:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        inbox = await channel.declare_queue("all", durable=True)
        await inbox.bind(exchange, "#")
        (tmp_path / "leases").write_text("")
        await daemon.start()
        async with api(daemon) as client:
            contract = Contract(await client.ask("GET", "/asyncapi.json"))
            await _operate(daemon, client)
            await _machines(daemon, tftp)
            wanted = {
                "node.provision", "node.step_begun", "node.step", "node.progress", "node.workflow", "node.power_seen", "node.boot_device",
                "node.dhcp", "node.tftp", "node.http", "node.ramdisk", "boot.unknown",
                "boot.tftp", "boot.http", "node.agent_lookup", "node.heartbeat",
                "node.image_written", "node.console", "node.hardware", "node.maintenance",
                "allocation.create", "allocation.active", "allocation.failed", "port.create",
            }  # fmt: skip
            async with asyncio.timeout(PATIENCE):
                events = await contract.follow(inbox, lambda _message: wanted <= contract.seen)
        await daemon.stop()
        daemon.assert_clean()
    numbers = [int(event["id"]) for event in events]
    assert numbers == list(range(1, len(numbers) + 1))
    faults = [event["data"]["fault"] for event in events if event["type"] == "node.maintenance"]
    assert faults[0] == "power failure"
    consoles = [event["data"]["enabled"] for event in events if event["type"] == "node.console"]
    assert consoles == [True, False]
    begun = Counter(event["object"] for event in events if event["type"] == "node.step_begun")
    ended = Counter(event["object"] for event in events if event["type"] == "node.step" and event["data"]["outcome"] == "done")
    assert begun
    assert set(ended) <= set(begun)
