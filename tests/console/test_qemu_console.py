"""A real operating system's login prompt over a real BMC: QEMU behind ipmi_sim, and the BMC restarts in between."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from lab import Lab
from lab.prepare import prepare
from metald.console.stream import ConsoleStream, Reader
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.info import parse
from metald.drivers.ipmi.sol import open_sol
from metald.model import BootDevice, Node
from tests.support.bmc import hub

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
