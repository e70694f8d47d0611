"""The interface ipmitool: where its secrets are, that it always ends, and what its words mean."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.info import BmcInfo, Bridge
from metald.drivers.ipmi.ipmitool import Ipmitool, IpmitoolManagement, IpmitoolPower, arguments, environment
from metald.errors import (
    BmcAuthFailed,
    BmcCipherUnsupported,
    BmcPrivilegeTooLow,
    BmcRefused,
    BmcUnreachable,
    DeadlineExceeded,
    Unsupported,
)
from metald.model import PowerState, PowerTarget
from metald.sim.rmcp import User
from tests.support.bmc import ADMIN, context, open_ipmi, quick, simulated

INFO = BmcInfo("192.0.2.1", 623, "root", "hush-hush", kg=b"Kg-hush-Kg-hush-Kg-h")


def program(directory: Path, body: str) -> str:
    """A stand-in for ipmitool, in Python."""
    path = directory / "ipmitool"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\nhere = {str(directory)!r}\n{body}\n")
    path.chmod(0o755)
    return str(path)


async def test_secrets_are_in_the_environment_and_nowhere_else(tmp_path: Path) -> None:
    body = "json.dump([sys.argv, dict(os.environ)], open(here + '/seen', 'w'))\nprint(' 01 00 00')"
    tool = Ipmitool(quick(ipmitool=program(tmp_path, body)))
    assert await tool.raw(INFO, 0, 1) == b"\x01\x00\x00"
    argv, environ = json.loads((tmp_path / "seen").read_text())
    assert "hush" not in " ".join(argv)
    assert environ["IPMI_PASSWORD"] == "hush-hush"
    assert environ["IPMI_KGKEY"] == INFO.kg.decode() if INFO.kg else False
    assert argv[-3:] == ["raw", "0x00", "0x01"]
    assert set(environ) <= {"PATH", "LC_ALL", "LC_CTYPE", "IPMI_PASSWORD", "IPMI_KGKEY"}


async def test_long_answers_come_in_several_lines(tmp_path: Path) -> None:
    body = "print('RAW RSP (20 bytes)'); print(' 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f'); print(' 10 11 12 13')"
    assert await Ipmitool(quick(ipmitool=program(tmp_path, body))).raw(INFO, 0x0A, 0x11) == bytes(range(20))


def test_the_options_of_a_bmc_behind_a_bmc() -> None:
    info = BmcInfo("h", 624, "", "", 2, (1,), bridge=Bridge("0x7", "0x82", "0x0", "0x72", "0x20"))
    words = " ".join(arguments(info, 1, 3))
    assert words == "-v -I lanplus -H h -p 624 -L USER -N 1 -R 3 -E -C 1 -m 0x20 -b 0x7 -t 0x82 -B 0x0 -T 0x72"
    assert "-I lan " in " ".join(arguments(BmcInfo("h", protocol="1.5"), 3, 3))
    assert environment(info)[b"IPMI_PASSWORD"] == b""


async def _gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def _pid(directory: Path) -> int:
    async with asyncio.timeout(10):
        while not (directory / "pid").exists() or not (directory / "pid").read_text():
            await asyncio.sleep(0.01)
    return int((directory / "pid").read_text())


_HANG = "open(here + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"


async def test_a_program_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    tool = Ipmitool(quick(ipmitool=program(tmp_path, _HANG), command_timeout=0.5))
    with pytest.raises(BmcUnreachable):
        await tool.raw(INFO, 0, 1)
    await _gone(await _pid(tmp_path))


async def test_a_cancelled_call_kills_its_program_and_frees_the_bmc(tmp_path: Path) -> None:
    tool = Ipmitool(quick(ipmitool=program(tmp_path, _HANG)))
    task = asyncio.create_task(tool.raw(INFO, 0, 1))
    pid = await _pid(tmp_path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _gone(pid)
    tool._settings = quick(ipmitool=program(tmp_path, "print('')"))
    assert await tool.raw(INFO, 0, 2) == b""


async def test_one_program_at_a_time_per_bmc(tmp_path: Path) -> None:
    body = """
lock = here + "/" + sys.argv[sys.argv.index("-H") + 1]
os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
time.sleep(0.02)
os.unlink(lock)
"""
    tool = Ipmitool(quick(ipmitool=program(tmp_path, body)))
    infos = [BmcInfo(f"192.0.2.{index % 2}") for index in range(6)]
    assert await asyncio.gather(*(tool.raw(info, 0, 1) for info in infos)) == [b""] * 6
    assert not tool._locks


async def test_a_missing_program_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="Install the package ipmitool"):
        await Ipmitool(quick(ipmitool=str(tmp_path / "none"))).raw(INFO, 0, 1)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("> RAKP 2 HMAC is invalid", BmcAuthFailed),
        ("> RAKP 4 message has invalid integrity check value", BmcAuthFailed),
        ("RAKP 2 message indicates an error : unauthorized name", BmcAuthFailed),
        ("RAKP 2 message indicates an error : unauthorized role requested", BmcPrivilegeTooLow),
        ("Set Session Privilege Level to ADMINISTRATOR failed: Unknown (0x81)", BmcPrivilegeTooLow),
        ("Error in open session response message : no matching cipher suite", BmcCipherUnsupported),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xd4): Insufficient privilege level", BmcPrivilegeTooLow),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xd5): Command not supported", BmcRefused),
        ("Address lookup for nosuch failed\nCould not open socket!", BmcUnreachable),
        ("Get Auth Capabilities error\nError: Unable to establish IPMI v2 / RMCP+ session", BmcUnreachable),
        ("Authentication algorithm 0x01 is not what we requested 0x03", BmcCipherUnsupported),
        ("> Error: no response from RAKP 1 message\nSet Session Privilege Level to ADMINISTRATOR failed", BmcUnreachable),
        ("> Error: no response from RAKP 3 message", BmcUnreachable),
        ("Activate Session command failed\nError: Unable to establish LAN session", BmcUnreachable),
        ("Authentication type NONE not supported\nError: Unable to establish LAN session", BmcCipherUnsupported),
        ("password hush-hush printed by some odd version", BmcUnreachable),
        ("", BmcUnreachable),
    ],
)
async def test_what_it_says_becomes_a_typed_error(tmp_path: Path, said: str, error: type[Exception]) -> None:
    tool = Ipmitool(quick(ipmitool=program(tmp_path, f"sys.stderr.write({said!r})\nsys.exit(1)")))
    with pytest.raises(error) as raised:
        await tool.raw(INFO, 0, 2, b"\x01")
    assert "hush" not in str(raised.value)


async def test_a_kg_key_with_zero_bytes_is_refused_before_the_program_runs() -> None:
    ctx = context("192.0.2.1", 623, ipmi_hex_kg_key="00" * 19 + "41")
    for interface in (IpmitoolPower(quick()), IpmitoolManagement(quick())):
        with pytest.raises(Unsupported, match="pyghmi"):
            await interface.validate(ctx)
        for good in ("41" * 20, "41" * 7 + "00" * 13, "00" * 20):
            await interface.validate(context("192.0.2.1", 623, ipmi_hex_kg_key=good))


async def test_a_kg_key_opens() -> None:
    async with simulated(kg=b"K" * 20) as server:
        settings = quick()
        power = IpmitoolPower(settings)
        assert await power.get_power_state(context(server.address, server.port, ipmi_hex_kg_key="4b" * 20)) is PowerState.OFF
        with pytest.raises(BmcAuthFailed, match="Kg"):
            await power.get_power_state(context(server.address, server.port))


async def test_an_unsupported_suite_and_stuck_power() -> None:
    async with simulated(suites=(3,)) as server:
        power = IpmitoolPower(quick())
        with pytest.raises(BmcCipherUnsupported):
            await power.get_power_state(context(server.address, server.port, ipmi_cipher_suite=17))
        server.bmc.faults.power_stuck = True
        with pytest.raises(DeadlineExceeded):
            await power.set_power_state(context(server.address, server.port), PowerTarget.ON, timeout=0.3)
        info = BmcInfo(server.address, server.port, ADMIN.name, ADMIN.password)
        tool = Ipmitool(quick())
        assert await Bmc(tool, info).power_is_on() is False
        assert tool._known[server.address, server.port].suite == 3


def test_nothing_of_the_daemons_environment_is_passed_on() -> None:
    os.environ["METALD__STORE__URL"] = "postgresql://user:hush@host/db"
    try:
        assert b"METALD__STORE__URL" not in environment(INFO)
    finally:
        del os.environ["METALD__STORE__URL"]


async def test_ipmi_15_reaches_a_bmc_that_has_it(tmp_path: Path) -> None:
    async with open_ipmi(tmp_path) as server:
        power = IpmitoolPower(quick(command_timeout=20.0))
        ctx = context(server.address, server.port, ipmi_protocol_version="1.5")
        await power.set_power_state(ctx, PowerTarget.ON)
        assert await power.get_power_state(ctx) is PowerState.ON
        with pytest.raises(BmcUnreachable, match="says nothing to the proof of the password"):
            await power.get_power_state(context(server.address, server.port, User(ADMIN.name, "wrong"), ipmi_protocol_version="1.5"))
    async with simulated() as simulator:
        with pytest.raises(BmcCipherUnsupported, match=r"IPMI 1\.5"):
            await power.get_power_state(context(simulator.address, simulator.port, ipmi_protocol_version="1.5"))
