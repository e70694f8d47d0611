"""The session protocol in memory: logins of every kind, loss, restarts, and hostile datagrams."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.pace import PATIENCE
from metald.sim.chassis import SimBmc
from metald.sim.rmcp import User
from tests.support.bmc import AUTH_CAPABILITIES
from tests.support.wire import MemoryWire

_STATUS = (0x00, 0x01)
_RESET = (0x00, 0x02, b"\x03")


def bmc(**arguments: Any) -> SimBmc:
    return SimBmc(**{"users": (User("admin", "secret"), User("watch", "secret", 2)), **arguments})


def info(**changes: Any) -> BmcInfo:
    return BmcInfo(**{"address": "127.0.0.1", "username": "admin", "password": "secret", **changes})


@pytest.mark.parametrize("suites", [(3,), (17,), (3, 17)])
@pytest.mark.parametrize("ours", [(3,), (17,), (17, 3)])
@pytest.mark.parametrize("kg", [None, bytes(range(20))])
def test_login_uses_a_suite_that_both_have(suites: tuple[int, ...], ours: tuple[int, ...], kg: bytes | None) -> None:
    wire = MemoryWire(info(suites=ours, kg=kg), bmc(suites=suites, kg=kg))
    common = [suite for suite in ours if suite in suites]
    assert wire.login() == ("logged in" if common else "bmc-cipher")
    if common:
        assert wire.session.suite == common[0]
        assert wire.ask(*_STATUS) == (0, b"\x00\x00\x00\x00")


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"password": "wrong"}, "bmc-auth", "password"),
        ({"username": "nobody"}, "bmc-auth", "does not know the user"),
        ({"kg": b"k" * 20}, "bmc-auth", "Kg"),
        ({"username": "watch"}, "bmc-privilege", "ADMINISTRATOR"),
    ],
)
def test_a_refused_login_says_why_and_holds_no_secret(changes: dict[str, Any], code: str, word: str) -> None:
    wire = MemoryWire(info(**changes), bmc())
    assert wire.login() == code
    assert word in str(wire.error)
    for secret in ("secret", "wrong", "kkkk", (b"k" * 20).hex()):
        assert secret not in str(wire.error).replace("ipmi_hex_kg_key", "")
        assert secret not in repr(wire.session)
        assert secret not in repr(wire.session.info)
    assert wire.bmc.server.established == (1 if "kg" in changes else 0)


def test_a_bmc_that_is_silent_to_suite_17_is_entered_with_3() -> None:
    machine = bmc(suites=(3,))
    wire = MemoryWire(info(), machine)
    handle = machine.server.handle
    machine.server.handle = lambda data, now: None if data[5] == 0x10 and data[28] == 3 else handle(data, now)  # type: ignore[method-assign]
    assert wire.login() == "logged in"
    assert wire.session.suite == 3


def test_a_bmc_without_free_slots_is_asked_again_until_one_is_free() -> None:
    machine = bmc(slots=1)
    first = MemoryWire(info(), machine)
    assert first.login() == "logged in"
    second = MemoryWire(info(), machine)
    second.session.login()
    second.run(lambda: second.session.established, limit=3.5)
    assert not second.session.established
    assert "no free session slot" in second.session.hindrance
    first.session.close()
    first.run(lambda: False, limit=1.0)
    second.run(lambda: second.session.established, limit=3.0)
    assert second.session.established


def test_a_restarted_bmc_is_noticed_within_three_seconds() -> None:
    wire = MemoryWire(info(), bmc())
    wire.login()
    wire.bmc.restart()
    before = wire.now
    assert wire.ask(*_STATUS) is None
    assert sum(PATIENCE) <= wire.now - before < 3.0
    wire.session.close()
    assert wire.login() == "logged in"
    assert wire.ask(*_STATUS) is not None


def test_a_repeated_request_has_one_effect() -> None:
    machine = bmc()
    machine.power = True
    wire = MemoryWire(info(), machine)
    wire.login()
    replies = iter([0.001, None, *[0.001] * 10])  # the request arrives, its answer is lost
    wire.fate = lambda: next(replies)
    assert wire.ask(*_RESET) == (0, b"")
    assert machine.counters.reset == 1
    assert machine.server.replayed == 1


def test_what_must_not_happen_twice_is_sent_once() -> None:
    machine = bmc()
    machine.power = True
    wire = MemoryWire(info(), machine)
    wire.login()
    sent: list[float] = []
    wire.fate = lambda: sent.append(wire.now)
    wire.session.request(*_RESET, repeat=False)
    wire.run(lambda: (wire.log or [(0, "")])[-1][1] == "lost")
    assert len(sent) == 1


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    machine = bmc()
    wire = MemoryWire(info(), machine)
    wire.login()
    wire.fate = lambda: 0.2
    wire.session.request(*_STATUS, b"")
    wire.session.cancel()
    machine_on = wire.now + 0.1
    wire.run(lambda: wire.now >= machine_on, limit=0.1)
    wire.session.request(0x06, 0x01, b"")
    wire.run(lambda: bool(wire.answers))
    assert len(wire.answers[0][1]) > 10  # the device id, not the four bytes of the chassis status


@settings(max_examples=80, derandomize=True)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.05, 0.2, 0.4]))
def test_whatever_is_lost_delayed_or_doubled_logins_and_commands_end(seed: int, loss: float) -> None:
    rng = random.Random(seed)
    wire = MemoryWire(info(), bmc(seed=seed, slots=60), lambda: None if rng.random() < loss else rng.choice([0.001, 0.01, 0.6]))
    for _ in range(3):
        assert wire.login() in ("logged in", "nothing")
        if not wire.session.established:
            wire.session.close()
            continue
        answer = wire.ask(*_STATUS)
        assert answer in (None, (0, b"\x00\x00\x00\x00"))
    wire.fate = lambda: 0.001
    wire.session.close()
    wire.run(lambda: False, limit=2.0)
    wire.bmc.restart()
    assert wire.login() == "logged in"
    assert wire.ask(*_STATUS) == (0, b"\x00\x00\x00\x00")


_FRAME = st.binary(max_size=90).map(lambda tail: b"\x06\x00\xff\x07" + tail)
_TYPED = st.tuples(st.sampled_from([0, 1, 0x11, 0x13, 0x15, 0x40, 0xC0, 0xC1]), st.binary(max_size=80)).map(
    lambda t: b"\x06\x00\xff\x07\x06" + bytes((t[0],)) + bytes(8) + len(t[1]).to_bytes(2, "little") + t[1]
)
_HOSTILE = st.one_of(st.binary(max_size=120), _FRAME, _TYPED)


@settings(max_examples=150, derandomize=True)
@given(steps=st.integers(0, 14), junk=st.lists(_HOSTILE, min_size=1, max_size=8))
def test_junk_at_any_moment_neither_raises_nor_wedges_a_session(steps: int, junk: list[bytes]) -> None:
    wire = MemoryWire(info(), bmc())
    wire.session.login()
    left = iter(range(steps))
    wire.run(lambda: next(left, None) is None, limit=5)
    for data in junk:
        wire.inject(data)
    if wire.error is None:
        wire.run(lambda: wire.session.established or wire.error is not None)
    if wire.session.established:
        assert wire.ask(*_STATUS) == (0, b"\x00\x00\x00\x00")
    else:
        # A forged refusal ends a login, as a true one does; the next login is not the worse for it.
        assert wire.error is not None
        wire.error = None
        assert wire.login() == "logged in"


@settings(max_examples=200, derandomize=True)
@given(data=st.data())
def test_mangled_answers_of_the_bmc_neither_raise_nor_wedge(data: st.DataObject) -> None:
    machine = bmc()
    wire = MemoryWire(info(), machine)
    handle, seen = machine.server.handle, [0]
    spoilt = data.draw(st.integers(0, 7))

    def mangle(request: bytes, now: float) -> bytes | None:
        answer = handle(request, now)
        seen[0] += 1
        if answer is None or seen[0] != spoilt + 1:
            return answer
        cut = data.draw(st.integers(0, len(answer)))
        flip = data.draw(st.integers(0, len(answer) - 1))
        spoiled = bytearray(answer)
        spoiled[flip] ^= data.draw(st.integers(1, 255))
        return bytes(spoiled[:cut]) if data.draw(st.booleans()) else bytes(spoiled)

    machine.server.handle = mangle  # type: ignore[method-assign]
    ended = wire.login()
    assert ended == "logged in" or wire.error is not None
    if ended == "logged in":
        assert wire.ask(*_STATUS) in (None, (0, b"\x00\x00\x00\x00"))


@settings(max_examples=200, derandomize=True)
@given(junk=st.lists(st.one_of(_HOSTILE, st.just(AUTH_CAPABILITIES)), max_size=20), seed=st.integers(0, 9))
def test_junk_neither_raises_nor_wedges_a_simulated_bmc(junk: list[bytes], seed: int) -> None:
    machine = bmc(seed=seed)
    for data in junk:
        machine.handle(data, 0.0)
    wire = MemoryWire(info(), machine)
    assert wire.login() == "logged in"
    assert wire.ask(*_STATUS) == (0, b"\x00\x00\x00\x00")


@settings(max_examples=200, derandomize=True)
@given(data=st.data())
def test_mangled_requests_have_no_effect_on_a_simulated_bmc(data: st.DataObject) -> None:
    machine = bmc()
    wire = MemoryWire(info(), machine)
    wire.login()
    sent: list[bytes] = []
    wire.transmit = lambda packet: sent.append(bytes(packet))  # type: ignore[method-assign]
    wire.session.request(0x00, 0x02, b"\x01")
    packet = bytearray(sent[0])
    packet[data.draw(st.integers(4, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    assert machine.handle(bytes(packet), 0.0) is None
    assert not machine.power
