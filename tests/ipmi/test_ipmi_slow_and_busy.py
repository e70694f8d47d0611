"""BMCs that are slow, busy, full, in the middle of something else, or speak from elsewhere: what operators meet in the field."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.ipmitool import Ipmitool, IpmitoolManagement
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.pace import LOGIN_PATIENCE, PATIENCE, Pace
from metald.drivers.ipmi.power import PyghmiPower
from metald.drivers.ipmi.refusal import CompletionCode, passes
from metald.errors import BmcUnreachable
from metald.model import BootDevice, PowerTarget
from metald.sim.chassis import SimBmc
from metald.sim.rmcp import User
from tests.support.bmc import ADMIN, context, free_udp_port, hub, quick, simulated
from tests.support.wire import MemoryWire

_INFO = BmcInfo("127.0.0.1", username="admin", password="secret")
_STATUS = (0x00, 0x01)
_OPENED, _RAKP2, _RAKP4 = 0x11, 0x13, 0x15


def sim(**more: Any) -> SimBmc:
    return SimBmc(**{"users": (User("admin", "secret"),), "slots": 60, **more})


def at(server: Any) -> BmcInfo:
    return BmcInfo(server.address, server.port, ADMIN.name, ADMIN.password)


# -- slow


@pytest.mark.parametrize("one_way", [0.05, 0.25, 0.3, 0.5, 0.9, 1.4])
def test_a_bmc_that_is_slow_with_everything_lets_in_at_its_own_pace(one_way: float) -> None:
    wire = MemoryWire(_INFO, sim(), lambda: one_way)
    assert wire.login() == "logged in"
    assert wire.now < 5 * 2 * one_way + 0.1  # no exchange was begun anew
    assert wire.session.suite == 17  # slowness is no refusal of a suite
    assert wire.ask(*_STATUS) == (0, bytes(4))
    assert wire.log[-1][1] != "lost"


def test_a_bmc_that_was_slow_for_a_while_is_noticed_quickly_again_when_it_forgets() -> None:
    wire = MemoryWire(_INFO, sim(), lambda: 0.8)
    assert wire.login() == "logged in"
    wire.fate = lambda: 0.001
    for _ in range(6):
        assert wire.ask(*_STATUS) == (0, bytes(4))
    wire.bmc.restart()
    before = wire.now
    assert wire.ask(*_STATUS) is None
    assert wire.now - before < 3.0


@pytest.mark.parametrize("kind", [_OPENED, _RAKP2, _RAKP4])
@pytest.mark.parametrize("seconds", [0.7, 1.3, 2.0])
def test_a_bmc_whose_cryptography_takes_its_time_lets_in(kind: int, seconds: float) -> None:
    wire = MemoryWire(_INFO, sim())
    usual = wire._send

    def slow(inbound: bool, data: bytes) -> None:
        if inbound and data[4] == 6 and data[5] & 0x3F == kind:
            wire.fate = lambda: seconds
        usual(inbound, data)
        wire.fate = lambda: 0.001

    wire._send = slow  # type: ignore[method-assign]
    assert wire.login() == "logged in"
    assert wire.now < 12


async def test_the_time_of_a_login_counts_from_the_last_answer() -> None:
    async with simulated() as server, hub(login_timeout=2.0, command_timeout=60.0) as started:
        server.bmc.faults.delay = 0.5  # five answers are more than login_timeout
        assert await Bmc(started, at(server)).power_is_on() is False
        assert server.bmc.server.logins == 1


async def test_a_bmc_that_stops_answering_in_its_login_is_given_up() -> None:
    async with simulated() as server, hub(login_timeout=1.0, command_timeout=20.0) as started:
        handle = server.bmc.server.handle
        server.bmc.server.handle = lambda data, now: None if data[4] == 6 else handle(data, now)  # type: ignore[method-assign]
        asyncio.get_running_loop().call_later(0.5, setattr, server.bmc.faults, "dead", True)
        with pytest.raises(BmcUnreachable, match="it answers, but the login did not come to its end"):
            await Bmc(started, at(server)).power_is_on()


@given(st.lists(st.floats(0, 30), max_size=8), st.integers(0, 9), st.integers(0, 9))
def test_a_wait_is_never_shorter_than_its_step_nor_endless(took: list[float], tries: int, rounds: int) -> None:
    pace, now = Pace(), 100.0
    for seconds in took:
        pace.asked(now)
        now += seconds
        pace.answered(now)
    for _ in range(rounds):
        pace.begin_again()
    pace.tries = tries
    assert min(LOGIN_PATIENCE[min(tries + rounds, 4)], 2.5) <= pace.wait(LOGIN_PATIENCE, login=True) <= 6.0
    assert PATIENCE[min(tries, 2)] <= pace.wait(PATIENCE, login=False) <= 6.0


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1]))
def test_late_doubled_and_reordered_answers_never_answer_another_question(seed: int, loss: float) -> None:
    rng = random.Random(seed)
    wire = MemoryWire(_INFO, sim(), lambda: None if rng.random() < loss else rng.choice([0.001, 0.3, 0.8, 1.6]))
    usual = wire._send

    def doubled(inbound: bool, packet: bytes) -> None:
        for _ in range(rng.choice([1, 1, 2, 3])):
            usual(inbound, packet)

    wire._send = doubled  # type: ignore[method-assign]
    if wire.login() != "logged in":
        return
    for _ in range(6):
        command, length = rng.choice([((0x00, 0x01), 4), ((0x06, 0x37), 16), ((0x06, 0x04), 2)])
        answer = wire.ask(*command)
        assert answer is None or len(answer[1]) == length
        if answer is None:
            return


def test_sequence_numbers_that_jump_ahead_are_taken_and_old_ones_are_not() -> None:
    machine = sim()
    wire = MemoryWire(_INFO, machine)
    wire.login()
    (session,) = machine.server.sessions.values()
    for jump in (1, 15, 1000, 1 << 30):
        session.sequence += jump
        assert wire.ask(*_STATUS) == (0, bytes(4))
    session.sequence = 5  # as after a restart of only the BMC's network stack
    assert wire.ask(*_STATUS) is None
    wire.session.close()
    assert wire.login() == "logged in"


# -- busy


@pytest.mark.parametrize("command", [(0x06, 0x38), (0x06, 0x3B)])
@pytest.mark.parametrize("code", [0xC0, 0xC4, 0xD2])
def test_a_bmc_that_is_busy_during_the_login_is_asked_again(command: tuple[int, int], code: int) -> None:
    machine = sim()
    level, usual = machine._commands[command]
    refusals = iter([bytes((code,))] * 3)
    machine._commands[command] = (level, lambda *given: next(refusals, None) or usual(*given))
    wire = MemoryWire(_INFO, machine)
    assert wire.login() == "logged in"
    assert machine.server.established == 1


@pytest.mark.parametrize("kind", [_OPENED, _RAKP2, _RAKP4])
@pytest.mark.parametrize("status", [0x01, 0x0B, 0xC0])
def test_a_full_bmc_is_asked_again_and_the_reason_is_known_meanwhile(kind: int, status: int) -> None:
    machine, left = sim(), [3]
    handle = machine.server.handle

    def full(data: bytes, now: float) -> bytes | None:
        answer = handle(data, now)
        if answer is not None and answer[4] == 6 and answer[5] & 0x3F == kind and left[0]:
            left[0] -= 1
            return answer[:17] + bytes((status,)) + answer[18:]
        return answer

    machine.server.handle = full  # type: ignore[method-assign]
    wire = MemoryWire(_INFO, machine)
    wire.session.login()
    wire.run(lambda: not left[0])
    assert "no free session slot" in wire.session.hindrance
    wire.run(lambda: wire.session.established)
    assert wire.session.established


def test_which_refusals_pass() -> None:
    assert [code for code in range(256) if passes(0, 2, code, repeat=False)] == [0xC0, 0xC4, 0xD2]
    assert [code for code in range(256) if passes(0, 8, code, repeat=True)] == [0xC0, 0xC3, 0xC4, 0xCE, 0xCF, 0xD2]
    assert passes(0, 1, 0xFF, repeat=True)


@pytest.mark.parametrize("code", [0xC0, 0xC3, 0xC4, 0xCE, 0xCF, 0xD2, 0xFF])
async def test_what_passes_is_asked_again(code: int) -> None:
    async with simulated() as server, hub() as started:
        server.bmc.faults.refuse = {"00:01": code}
        asyncio.get_running_loop().call_later(0.1, server.bmc.faults.refuse.clear)
        assert await Bmc(started, at(server)).power_is_on() is False
        assert server.bmc.counters.refused == 1


async def test_a_reset_that_may_have_been_done_is_not_repeated_and_one_that_was_not_is() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.power = True
        bmc = Bmc(started, at(server))
        server.bmc.faults.refuse = {"00:02": 0xC3}
        with pytest.raises(CompletionCode):
            await bmc.reset()
        assert server.bmc.counters.refused == 1
        server.bmc.faults.refuse = {"00:02": 0xC0}
        asyncio.get_running_loop().call_later(0.1, server.bmc.faults.refuse.clear)
        await bmc.reset()
        assert server.bmc.counters.reset == 1


_SLOTS_TAKEN = "Error in open session response message : insufficient resources for session"
_BUSY = "Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x1 rsp=0xc0): Node busy"


def saying(directory: Path, text: str, times: int) -> str:
    """A stand-in for ipmitool that fails so often, then says that the power is on."""
    path = directory / "ipmitool"
    body = f"""
count = {str(directory / "count")!r}
before = len(open(count).read()) if os.path.exists(count) else 0
open(count, "a").write("x")
if before < {times}:
    sys.stderr.write({text!r})
    sys.exit(1)
print(" 01 00 00")
"""
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("text", [_SLOTS_TAKEN, _BUSY])
async def test_ipmitool_is_run_again_while_the_bmc_is_busy_or_full(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metald.drivers.ipmi.ipmitool._PAUSE", 0.01)
    settings_ = quick(ipmitool=saying(tmp_path, text, 2), command_timeout=60.0)
    tool = Ipmitool(settings_)
    assert await Bmc(tool, _INFO).power_is_on()
    ctx = context("127.0.0.1", 623)
    told = [line["what"] for line in IpmitoolManagement(settings_, tool).exchange(ctx)]
    assert told == ["busy", "busy", "command 00 01 -> 00 01 00 00"]
    assert IpmitoolManagement(settings_, tool).exchange(context("127.0.0.2", 623)) == []


@pytest.mark.parametrize(("text", "word"), [(_SLOTS_TAKEN, "no free session slot"), (_BUSY, "0xc0")])
async def test_ipmitool_is_not_run_for_ever(tmp_path: Path, text: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metald.drivers.ipmi.ipmitool._PAUSE", 0.01)
    tool = Ipmitool(quick(ipmitool=saying(tmp_path, text, 10_000), command_timeout=1.0))
    with pytest.raises((BmcUnreachable, CompletionCode), match=word) as error:
        await Bmc(tool, _INFO).power_is_on()
    assert error.value.exchange


async def test_a_power_command_that_cannot_be_done_now_is_sent_until_it_can() -> None:
    async with simulated() as server, hub() as started:
        power = PyghmiPower(started, started.settings)
        ctx = context(server.address, server.port)
        server.bmc.faults.refuse = {"00:02": 0xD5}
        with pytest.raises(CompletionCode, match="present state"):
            await power.set_power_state(ctx, PowerTarget.ON, timeout=0.3)
        asyncio.get_running_loop().call_later(0.2, server.bmc.faults.refuse.clear)
        await power.set_power_state(ctx, PowerTarget.ON)
        assert server.bmc.counters.power_on == 1
        server.bmc.faults.refuse = {"00:02": 0xD5}
        server.bmc.faults.power_shown = "off"  # refused because it has gone off by itself
        await power.set_power_state(ctx, PowerTarget.OFF)
        server.bmc.faults.refuse = {"00:02": 0xC1}
        with pytest.raises(CompletionCode):
            await power.set_power_state(ctx, PowerTarget.ON)


# -- boot options


async def test_boot_options_that_another_program_left_open_are_closed() -> None:
    async with simulated() as server, hub() as started:
        level, usual = server.bmc._commands[0x00, 0x08]
        held = [True]

        def setting(session: Any, data: bytes, now: float) -> bytes:
            if data[:2] == b"\x00\x00":
                held[0] = False
            return b"\x81" if held[0] else usual(session, data, now)

        server.bmc._commands[0x00, 0x08] = (level, setting)
        management = PyghmiManagement(started, started.settings)
        await management.set_boot_device(context(server.address, server.port), BootDevice.PXE, persistent=False)
        assert server.bmc.boot_options[5].hex() == "8004000000"
        assert not held[0]


@pytest.mark.parametrize(
    ("persistent", "capabilities", "there", "missing"),
    [
        (True, "boot_mode:uefi", ["persistent UEFI", "ipmi_force_boot_device", "boot_mode:bios", "noop"], []),
        (False, "boot_mode:bios", ["one-time boot device", "noop"], ["ipmi_force_boot_device", "boot_mode:bios"]),
    ],
)
async def test_a_refused_boot_device_names_the_ways_round_it(
    persistent: bool, capabilities: str, there: list[str], missing: list[str]
) -> None:
    async with simulated() as server, hub() as started:
        level, usual = server.bmc._commands[0x00, 0x08]
        server.bmc._commands[0x00, 0x08] = (level, lambda s, data, now: b"\xcc" if data[0] == 5 else usual(s, data, now))
        ctx = context(server.address, server.port, node={"properties": {"capabilities": capabilities}})
        with pytest.raises(CompletionCode, match="data field") as error:
            await PyghmiManagement(started, started.settings).set_boot_device(ctx, BootDevice.DISK, persistent=persistent)
        assert all(word in str(error.value) for word in there)
        assert not any(word in str(error.value) for word in missing)


# -- from elsewhere


@asynccontextmanager
async def answers_from_another_port(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[int]:
    """A BMC behind a translator of ports; gives the port it is asked at."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as front, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        for sock in (front, back):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))

        def asked() -> None:
            data, peer = front.recvfrom(2048)
            reply = answer(data)
            if reply is not None:
                back.sendto(reply, peer)

        loop.add_reader(front, asked)
        try:
            yield front.getsockname()[1]
        finally:
            loop.remove_reader(front)


async def test_answers_from_another_port_are_not_taken_but_told_of() -> None:
    machine = sim()
    async with answers_from_another_port(lambda data: machine.handle(data, 0.0)) as port, hub(login_timeout=1.0) as started:
        with pytest.raises(BmcUnreachable, match="answers from port"):
            await Bmc(started, BmcInfo("127.0.0.1", port, "admin", "secret")).power_is_on()
        assert started.strays
        assert machine.server.logins == 0
        with pytest.raises(BmcUnreachable) as error:
            await Bmc(started, BmcInfo("127.0.0.7", free_udp_port(), "admin", "secret")).power_is_on()
        assert "answers from port" not in str(error.value)


async def test_every_question_is_asked_once_it_is_known_that_the_bmc_wants_it() -> None:
    async with simulated() as server, hub() as started:
        handle, asked = server.bmc.server.handle, [True]

        def strict(data: bytes, now: float) -> bytes | None:
            if data[4] == 0:
                asked[0] = True
            return None if data[4:6] == b"\x06\x10" and not asked[0] else handle(data, now)

        server.bmc.server.handle = strict  # type: ignore[method-assign]
        bmc, repeats = Bmc(started, at(server)), []
        for _ in range(3):
            await bmc.power_is_on()
            link = await started.link(bmc.info)
            assert link.session is not None
            repeats.append(link.session.repeats)
            link._drop()
            asked[0] = False
        assert repeats == [0, 1, 0]
