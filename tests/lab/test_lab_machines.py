"""The rack: what its BMCs do to machines, seen by an ordinary IPMI client, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Action, Device, Lab, LabError, LabMachine
from lab.network import may_bridge
from lab.process import run
from lab.rack import sweep

ROOT = Path(__file__).parent.parent.parent


async def ipmi(one: LabMachine, *words: str, password: str | None = None, tries: int = 3) -> str:
    bmc = one.bmc
    secret = bmc.password if password is None else password
    options = ("-N", "1", "-R", str(tries), "-C", "3", "-H", bmc.address, "-p", str(bmc.port), "-U", bmc.user, "-P", secret)
    return await run("ipmitool", "-I", "lanplus", *options, *words)


async def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.02)


def console(one: LabMachine) -> str:
    return one.serial_log.read_text(errors="replace")


@pytest.mark.qemu
async def test_power_and_boot_device_by_ipmi() -> None:
    async with Lab(1) as lab:
        one = lab.machines[0]
        assert "off" in await ipmi(one, "power", "status")
        with pytest.raises(LabError):
            await ipmi(one, "power", "reset")
        await ipmi(one, "chassis", "bootdev", "disk")
        await ipmi(one, "power", "on")
        await until(lambda: "No bootable device" in console(one))
        assert one.happenings[0].device is Device.DISK
        await ipmi(one, "power", "reset")
        await until(lambda: one.resets == 1)
        assert one.happenings[-1].device is None
        await ipmi(one, "power", "cycle")
        await until(lambda: one.resets == 2)
        await ipmi(one, "power", "off")
        await until(lambda: not one.on)
        assert [(h.what, h.why) for h in one.happenings] == [
            ("boot", "on"),
            ("boot", "reset"),
            ("off", "cycle"),
            ("boot", "cycle"),
            ("off", "off"),
        ]
        assert one.power_ons == 2


@pytest.mark.qemu
async def test_a_bmc_that_restarts_keeps_its_machine_and_its_flags() -> None:
    async with Lab(1) as lab:
        one = lab.machines[0]
        await ipmi(one, "chassis", "bootdev", "pxe", "options=persistent,efiboot")
        await ipmi(one, "power", "on")
        await until(lambda: one.on)
        await one.bmc.stop()
        with pytest.raises(LabError):
            await ipmi(one, "power", "status", tries=1)
        await one.bmc.start()
        assert "on" in await ipmi(one, "power", "status")
        shown = await ipmi(one, "chassis", "bootparam", "get", "5")
        assert "BIOS EFI boot" in shown
        assert "all future boots" in shown


async def test_a_wrong_password_is_refused() -> None:
    async with Lab(1, network="user") as lab:
        with pytest.raises(LabError):
            await ipmi(lab.machines[0], "power", "status", password="wrong")


async def test_a_stuck_machine_takes_the_command_and_does_nothing() -> None:
    async with Lab(1, network="user") as lab:
        one = lab.machines[0]
        one.machine.stuck = True
        await ipmi(one, "power", "on")
        assert [h.what for h in one.happenings] == ["ignored"]
        assert "off" in await ipmi(one, "power", "status")


@pytest.mark.qemu
async def test_a_machine_that_dies_is_off() -> None:
    async with Lab(1, network="user") as lab:
        one = lab.machines[0]
        one.machine.press(Action.ON)
        await until(lambda: one.on and one.machine._watcher is not None)
        process = one.machine._process
        assert process is not None
        process.kill()
        await until(lambda: not one.on)
        assert one.happenings[-1].what == "off"


@pytest.mark.qemu
async def test_serial_over_lan_shows_the_console() -> None:
    async with Lab(1, network="user") as lab:
        one = lab.machines[0]
        reader, writer = await asyncio.open_connection("127.0.0.1", one.machine.line.port)
        one.machine.press(Action.ON)
        async with asyncio.timeout(60):
            await reader.readuntil(b"SeaBIOS")
        writer.close()


async def test_a_machine_that_cannot_start_says_why() -> None:
    async with Lab(1, network="user") as lab:
        one = lab.machines[0]
        one.disk.unlink()
        one.machine.press(Action.ON)
        await until(lambda: bool(one.machine.failed))
        assert not one.on
        assert "disk0.raw" in one.machine.failed


@pytest.mark.skipif(bool(may_bridge()), reason="needs root and /dev/net/tun")
async def test_two_labs_at_once_do_not_meet() -> None:
    async with Lab(1, network="bridge") as a, Lab(1, network="bridge") as b:
        assert a.host != b.host
        assert not a.left_out
    links = await run("ip", "-brief", "link")
    assert a.host.split(".")[1] + "-" + a.host.split(".")[2] not in links


async def test_user_network_says_what_it_leaves_out() -> None:
    async with Lab(1, network="user") as lab:
        assert any("TFTP" in what for what in lab.left_out)
        assert lab.machines[0].ssh()


async def test_a_failure_while_starting_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: object) -> None:
        raise LabError("the relay is broken")

    monkeypatch.setattr("lab.bmc.Bmc.start", broken)
    lab = Lab(2, network="user")
    with pytest.raises(LabError, match="relay"):
        async with lab:
            pass
    assert not lab.directory.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_whatever_ends_it_nothing_is_left(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lab",
        "up",
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        await process.stdout.readuntil(b"Ctrl-C")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(number)
    async with asyncio.timeout(30):
        await process.wait()
    await until(lambda: not any(Path("/proc", child, "exe").exists() for child in children), 20)
    assert process.returncode == (-number if number is signal.SIGKILL else 0)
    sweep()
    assert not list(Path(tempfile.gettempdir()).glob(f"metald-lab-{process.pid}-*"))


async def test_a_deep_temporary_directory_does_not_break_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with Lab(1, network="user") as lab:
        assert "off" in await ipmi(lab.machines[0], "power", "status")
