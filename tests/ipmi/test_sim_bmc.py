"""The simulated BMCs: as a process, behind one socket, in front of the real ipmitool, and with their faults."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metald.drivers.ipmi.info import BmcInfo
from metald.sim.bmc import Fleet, build, execute
from metald.sim.chassis import SimBmc
from metald.sim.rmcp import SESSION_IDLE, User
from tests.support.bmc import ADMIN, simulated
from tests.support.wire import MemoryWire


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            found: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return found

    async def ask(self, text: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        return await self.line()


@asynccontextmanager
async def process(*words: str) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metald.sim.bmc", *words), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Process(started)
    finally:
        assert started.stdin is not None
        started.stdin.close()  # the end of its input is the end of it
        try:
            async with asyncio.timeout(10):
                assert await started.wait() == 0
        finally:
            if started.returncode is None:
                started.kill()


async def ipmitool(address: str, port: int, *words: str, user: User = ADMIN) -> tuple[int, str]:
    common = ("-I", "lanplus", "-H", address, "-p", str(port), "-U", user.name, "-P", user.password, "-N", "1", "-R", "2")
    started = await asyncio.create_subprocess_exec(
        *("ipmitool", *common, *words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await started.communicate()
    assert started.returncode is not None
    return started.returncode, output.decode()


async def test_as_a_process_it_obeys_its_control_line_and_ipmitool() -> None:
    async with process("--count", "3", "--base", "127.26.0.0", "--password", ADMIN.password) as sim:
        ready = await sim.line()
        assert (ready["first"], ready["last"], ready["count"]) == ("127.26.0.1", "127.26.0.3", 3)
        for suite in (["-C", "3"], ["-C", "17"], []):
            assert "Chassis Power" in (await ipmitool("127.26.0.2", ready["port"], *suite, "power", "on"))[1]
        counted = await sim.ask("counters 127.26.0.2")
        assert (counted["power_on"], counted["control"], counted["logins"], counted["power"]) == (1, 3, 3, "on")
        assert await sim.ask("power all off") == {"ok": 3}
        assert await sim.ask("restart 127.26.0.1") == {"ok": 1}
        assert await sim.ask('faults 127.26.0.3 {"refuse": {"00:01": 192}}') == {"ok": 1}
        assert "error" in await sim.ask("faults all {")
        assert "error" in await sim.ask('faults all {"no such": 1}')
        assert "error" in await sim.ask("power 10.0.0.1 on")
        assert "error" in await sim.ask("dance")
        sim.process.send_signal(signal.SIGUSR1)
        total = await sim.line()
        assert (total["power_on"], total["power_off"], total["restarts"], total["power"]) == (1, 1, 1, 0)
        assert total == await sim.ask("counters")


@pytest.mark.parametrize("suite", ["3", "17"])
async def test_real_ipmitool_agrees_with_it(suite: str) -> None:
    async with simulated() as server:

        async def run(*words: str) -> str:
            code, output = await ipmitool(server.address, server.port, "-C", suite, *words)
            assert code == 0, output
            return output

        assert "is off" in await run("power", "status")
        await run("power", "on")
        assert "is on" in await run("power", "status")
        await run("power", "reset")
        await run("power", "cycle")
        await run("power", "diag")
        assert "IPMI Version              : 2.0" in await run("mc", "info")
        assert "System GUID" in await run("mc", "guid")
        await run("chassis", "bootdev", "pxe", "options=efiboot,persistent")
        shown = await run("chassis", "bootparam", "get", "5")
        assert "Boot parameter data: e004000000" in shown
        assert "Force PXE" in shown
        await run("power", "soft")
        assert not server.power
        counters = server.bmc.counters
        assert (counters.power_on, counters.power_off, counters.soft_off) == (1, 1, 1)
        assert (counters.reset, counters.cycle, counters.nmi, counters.boot_device) == (1, 1, 1, 1)


async def test_effects_are_told_and_a_boot_uses_up_a_one_time_choice() -> None:
    told: list[str] = []
    machine = SimBmc(on_change=lambda _bmc, effect: told.append(effect))
    wire = MemoryWire(_info(), machine)
    wire.login()
    assert machine.take_boot_device() is None
    wire.ask(0, 8, bytes((5, 0x80, 0x04, 0, 0, 0)))
    wire.ask(0, 2, b"\x01")
    wire.ask(0, 2, b"\x01")
    assert machine.take_boot_device() == b"\x80\x04\x00\x00\x00"
    assert machine.take_boot_device() is None
    wire.ask(0, 8, bytes((5, 0xC0, 0x08, 0, 0, 0)))
    assert machine.take_boot_device() == machine.take_boot_device() == b"\xc0\x08\x00\x00\x00"
    machine.set_power(False)
    assert told == ["boot_device", "power_on", "boot_device", "power_off"]


def _info() -> BmcInfo:
    return BmcInfo("127.0.0.1", username="admin", password="secret")


def test_faults_of_the_power() -> None:
    machine = SimBmc()
    wire = MemoryWire(_info(), machine)
    wire.login()
    machine.faults.power_delay = 5.0
    wire.ask(0, 2, b"\x01")
    assert not machine.power
    assert machine.due is not None
    machine.settle(machine.due)
    assert machine.power
    machine.faults.power_shown = "off"
    assert wire.ask(0, 1) == (0, bytes(4))
    machine.faults.power_delay, machine.faults.power_stuck = 0.0, True
    wire.ask(0, 2, b"\x00")
    assert machine.power
    assert machine.counters.control == 2


def test_malformed_commands_are_refused_with_the_codes_of_the_standard() -> None:
    wire = MemoryWire(_info(), SimBmc())
    wire.login()
    cases = {
        (0, 2, b""): 0xC7,
        (0, 2, b"\x0e"): 0xCC,
        (0, 2, b"\x03"): 0xD5,
        (0, 8, b""): 0xC7,
        (0, 8, b"\x05\x00"): 0xC7,
        (0, 8, b"\x7e"): 0x80,
    }
    cases |= {(0, 9, b"\x05"): 0xC7, (0, 9, b"\x7e\0\0"): 0x80, (6, 0x3B, b""): 0xC7, (6, 0x3C, b"\1\2\3\4"): 0x87, (0x0A, 0x10, b""): 0xC1}
    for request, code in cases.items():
        answer = wire.ask(*request)
        assert answer is not None
        assert answer[0] == code, request


def test_an_unused_session_is_forgotten_when_another_is_opened() -> None:
    machine = SimBmc(slots=1)
    first = MemoryWire(_info(), machine)
    assert first.login() == "logged in"
    second = MemoryWire(_info(), machine)
    second.now = first.now + SESSION_IDLE + 1
    assert second.login() == "logged in"
    assert machine.server.established == 1


async def test_the_same_seed_loses_the_same_datagrams() -> None:
    def losses(seed: int) -> list[bool]:
        machine = SimBmc(seed=seed)
        return [machine.rng.random() < 0.5 for _ in range(64)]

    assert losses(1) == losses(1) != losses(2)


async def test_control_lines_in_process() -> None:
    async with Fleet(build(2, "127.27.0.0")) as fleet:
        assert execute(fleet, "power all on") == {"ok": 2}
        assert execute(fleet, "counters all")["power_on"] == 2
        assert execute(fleet, "counters 127.27.0.1")["power_on"] == 1
