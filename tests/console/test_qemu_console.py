"""A real operating system's login prompt over a real BMC: QEMU behind ipmi_sim, and the BMC restarts in between; OpenSSH sees it too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import asyncssh
import pytest

from lab import Lab
from lab.prepare import prepare
from metald.console.stream import ConsoleStream, Reader
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.info import parse
from metald.drivers.ipmi.sol import open_sol
from metald.model import BootDevice, Node
from tests.support.bmc import hub
from tests.support.daemon import Daemon, api, free_port

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]


async def seen(reader: Reader, *texts: bytes, seconds: float = 200.0) -> bytes:
    """Read until one of the texts came."""
    found = b""
    async with asyncio.timeout(seconds):
        while not any(text in found for text in texts):
            found += await reader.read()
    return found


async def test_a_login_prompt_is_there_and_the_console_survives_the_bmc() -> None:
    made = await prepare(lambda _text: None)
    async with Lab(1) as lab, hub(command_timeout=10.0, login_timeout=5.0) as started:
        one = lab.machines[0]
        with one.disk.open("r+b") as disk, made.image.open("rb") as image:
            await asyncio.to_thread(shutil.copyfileobj, image, disk)
        info = parse(Node(driver="ipmi", name="m", driver_info=dict(one.driver_info)))
        bmc = Bmc(started, info)
        stream = ConsoleStream(
            "m",
            lambda: open_sol(started, info, 1.0),
            scrollback=64 << 10,
            most_readers=4,
            longest_pause=1.0,
            record=lambda _data: None,
        )
        running = asyncio.create_task(stream.run())
        reader = stream.join()
        try:
            await seen(reader, b"connected]")
            await bmc.set_boot_device(BootDevice.DISK, None, persistent=True)
            await bmc.power_on()
            await seen(reader, b"login:")
            await stream.write(b"root\r")
            await seen(reader, b"Password:")
            await one.bmc.stop()
            await seen(reader, b"reconnect]")
            await one.bmc.start()
            await seen(reader, b"connected]")
            await stream.write(b"\r")
            await seen(reader, b"login:", b"Login incorrect")
            assert await bmc.power_is_on()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def typed(ssh: asyncio.subprocess.Process, text: bytes, answer: bytes) -> None:
    """Type until the answer comes: ipmi_sim swallows what comes before it has opened the serial port, and consoles break under load."""
    assert ssh.stdin is not None
    assert ssh.stdout is not None
    answered = asyncio.ensure_future(ssh.stdout.readuntil(answer))
    while not answered.done():
        ssh.stdin.write(text)
        await asyncio.wait([answered], timeout=5)
    await answered


async def test_openssh_sees_the_login_prompt_by_the_daemon_and_stays_while_the_bmc_restarts(tmp_path: Path) -> None:
    made = await prepare(lambda _text: None)
    key, way_in = tmp_path / "key", free_port()
    private = asyncssh.generate_private_key("ssh-ed25519")
    key.write_bytes(private.export_private_key())
    key.chmod(0o600)
    (tmp_path / "keys").write_bytes(private.export_public_key())
    settings = {
        "console.ssh_listen": f"127.0.0.1:{way_in}",
        "console.ssh_authorized_keys": tmp_path / "keys",
        "console.keepalive": 1,
        "console.reconnect_pause": 1,
    }
    async with Lab(1) as lab, Daemon(tmp_path / "metald", settings) as daemon:
        one = lab.machines[0]
        with one.disk.open("r+b") as disk, made.image.open("rb") as image:
            await asyncio.to_thread(shutil.copyfileobj, image, disk)
        await daemon.start()
        async with api(daemon) as client:
            uuid = await client.create(driver="ipmi", name="m1", driver_info=dict(one.driver_info))
            await client.provision(uuid, "manage")
            await client.wait(uuid, "manageable")
            await client.ask("PUT", "/v1/nodes/m1/management/boot_device", {"boot_device": "disk", "persistent": True})
            await client.ask("PUT", "/v1/nodes/m1/states/console", {"enabled": True})
            async with asyncio.timeout(60):
                while not (node := await client.node(uuid))["console_enabled"] or node["reservation"]:
                    await asyncio.sleep(0.05)
            options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path}/hosts", "IdentitiesOnly=yes", "BatchMode=yes")
            ssh = await asyncio.create_subprocess_exec(
                *("ssh", "-tt", "-F", "none", "-i", str(key), "-p", str(way_in), *(word for option in options for word in ("-o", option))),
                "m1@127.0.0.1",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert ssh.stdin is not None
            assert ssh.stdout is not None
            async with asyncio.timeout(300):
                await ssh.stdout.readuntil(b"connected]")
                await client.ask("PUT", "/v1/nodes/m1/states/power", {"target": "power on"})
                await ssh.stdout.readuntil(b"login:")
                await typed(ssh, b"root\r", b"Password:")
                await one.bmc.stop()
                await ssh.stdout.readuntil(b"reconnect]")
                await one.bmc.start()
                await ssh.stdout.readuntil(b"connected]")
                await typed(ssh, b"\r", b"login:")
                ssh.stdin.write(b"\r~.")  # OpenSSH's own way to leave
                assert await ssh.wait() == 255
        assert b"login:" in (daemon.state_dir / "console" / f"{uuid}.log").read_bytes()
        assert await daemon.stop() == 0
        daemon.assert_clean()
