"""BMCs that answer oddly: old ones, full ones, ones that cut answers short or seal nonsense."""

from __future__ import annotations

import asyncio
import hmac
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from metald.drivers.ipmi.client import Bmc, Control
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.refusal import CompletionCode, completion_text, refused
from metald.errors import BmcPrivilegeTooLow, BmcRefused, BmcUnreachable
from metald.sim.chassis import SimBmc
from tests.support.bmc import ADMIN, hub, simulated
from tests.support.wire import MemoryWire

INFO = BmcInfo("127.0.0.1", username="admin", password="secret")
_OPENED, _RAKP2, _RAKP4 = 0x11, 0x13, 0x15


def wire_with(change: Callable[[int, bytes], bytes | None], info: BmcInfo = INFO) -> MemoryWire:
    """A wire whose BMC's RMCP+ set-up answers go through `change(kind, datagram)`."""
    machine = SimBmc()
    handle = machine.server.handle

    def changed(data: bytes, now: float) -> bytes | None:
        answer = handle(data, now)
        return answer if answer is None else change(answer[5] & 0x3F if answer[4] == 6 else -1, answer)

    machine.server.handle = changed  # type: ignore[method-assign]
    return MemoryWire(info, machine)


def answer_to(command: tuple[int, int], body: bytes) -> MemoryWire:
    """A wire whose BMC answers one command with this completion code and data."""
    machine = SimBmc()
    machine._commands[command] = (0, lambda *_: body)
    return MemoryWire(INFO, machine)


@pytest.mark.parametrize(
    ("kind", "status", "code", "word"),
    [
        (_RAKP2, 0x12, "bmc-refused", "Illegal or unrecognized parameter"),
        (_RAKP2, 0x77, "bmc-refused", "0x77"),
        (_RAKP2, 0x09, "bmc-privilege", "ADMINISTRATOR"),
        (_RAKP4, 0x0F, "bmc-auth", "password"),
        (_RAKP4, 0x0A, "bmc-privilege", "ADMINISTRATOR"),
    ],
)
def test_every_status_of_a_login_has_its_error(kind: int, status: int, code: str, word: str) -> None:
    wire = wire_with(lambda k, data: data[:17] + bytes((status,)) + data[18:] if k == kind else data)
    assert wire.login() == code
    assert word in str(wire.error)


@pytest.mark.parametrize("status", [0x01, 0x02, 0x08, 0x0B])
def test_a_full_or_forgetful_bmc_is_tried_anew(status: int) -> None:
    first = iter([True])
    wire = wire_with(lambda k, data: data[:17] + bytes((status,)) + data[18:] if k == _RAKP2 and next(first, False) else data)
    assert wire.login() == "logged in"


def test_a_suite_that_was_not_asked_for_is_not_taken() -> None:
    def downgrade(kind: int, data: bytes) -> bytes:
        return data[:32] + b"\x00" + data[33:] if kind == _OPENED and data[17] == 0 else data  # "authentication: none"

    assert wire_with(downgrade).login() == "bmc-cipher"


@pytest.mark.parametrize("kind", [_OPENED, _RAKP2, _RAKP4])
@pytest.mark.parametrize("length", [16, 17, 18, 25])
def test_an_answer_cut_short_is_waited_out(kind: int, length: int) -> None:
    first = iter([True])
    wire = wire_with(lambda k, data: data[:length] if k == kind and next(first, False) else data)
    assert wire.login() == "logged in"


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (b"\x00\x01\x04\x04\x00\x00\x00\x00\x00", "bmc-cipher", "IPMI 1.5"),
        (b"\xc1", "bmc-refused", "refused the login"),
        (b"\x00\x01", "nothing", ""),
    ],
)
def test_capabilities_that_do_not_lead_on(body: bytes, code: str, word: str) -> None:
    wire = answer_to((0x06, 0x38), body)
    assert wire.login() == code
    assert word in str(wire.error)


def test_a_bmc_that_takes_a_reserved_bit_amiss_is_asked_without_it() -> None:
    machine = SimBmc()
    usual = machine._commands[0x06, 0x38][1]
    machine._commands[0x06, 0x38] = (0, lambda s, data, now: b"\xcc" if data[0] & 0x80 else usual(s, data, now))
    assert MemoryWire(INFO, machine).login() == "logged in"


@pytest.mark.parametrize(
    ("body", "code"), [(b"\x80", "bmc-privilege"), (b"\x81", "bmc-privilege"), (b"\xd4", "bmc-privilege"), (b"\xff", "bmc-refused")]
)
def test_a_refused_privilege_level_ends_the_login_and_the_session(body: bytes, code: str) -> None:
    wire = answer_to((0x06, 0x3B), body)
    assert wire.login() == code
    wire.run(lambda: False, limit=1.0)
    assert wire.bmc.server.established == 0


def test_sealed_nonsense_is_dropped() -> None:
    wire = MemoryWire(INFO, SimBmc())
    wire.login()
    (session,) = wire.bmc.server.sessions.values()
    for payload in (b"", b"five5", bytes(16), bytes(40), bytes(48)):
        session.sequence += 1
        packet = struct.pack("<BBIIH", 6, 0xC0, session.console_sid, session.sequence, len(payload)) + payload + b"\x00\x07"
        wire.inject(b"\x06\x00\xff\x07" + packet + hmac.digest(session.k1, packet, "sha256")[:16])
    assert wire.session.malformed
    assert wire.ask(0x00, 0x01) == (0, bytes(4))


@pytest.mark.parametrize(("command", "call"), [((0, 1), "power_is_on"), ((6, 1), "device_id")])
async def test_data_cut_short_is_an_error_and_not_a_crash(command: tuple[int, int], call: str) -> None:
    async with simulated() as server, hub() as started:
        server.bmc._commands[command] = (0, lambda *_: b"\x00\x01")
        with pytest.raises(BmcRefused, match="cut short"):
            await getattr(Bmc(started, _at(server)), call)()


@pytest.mark.parametrize("body", [b"\x00\x01", b"\x00\x01\x85\x80\x04\x00\x00\x00", b"\x00\x01\x05\x80", b"\x80"])
async def test_boot_flags_that_are_none(body: bytes) -> None:
    async with simulated() as server, hub() as started:
        server.bmc._commands[0, 9] = (0, lambda *_: body)
        assert (await Bmc(started, _at(server)).boot_flags()).valid is False


async def test_other_refusals_of_boot_options_are_told() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.faults.refuse = {"00:09": 0xD5, "00:08": 0xD5}
        with pytest.raises(CompletionCode):
            await Bmc(started, _at(server)).boot_flags()
        with pytest.raises(CompletionCode):
            await Bmc(started, _at(server))._keep_flags()


async def test_all_the_ways_to_control_a_chassis() -> None:
    async with simulated() as server, hub() as started:
        bmc = Bmc(started, _at(server))
        await bmc.power_on()
        await bmc.cycle()
        await bmc.soft_off()
        await bmc.control(Control.ON)
        await bmc.power_off()
        counters = server.bmc.counters
        assert (counters.power_on, counters.cycle, counters.soft_off, counters.power_off) == (2, 1, 1, 2)


async def test_a_name_with_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulated() as server, hub(command_timeout=0.4, login_timeout=0.3) as started:
        families = (socket.AF_INET, socket.SOCK_DGRAM, 17, "")

        async def resolve(*_: Any, **__: Any) -> list[Any]:
            return [(*families, ("127.0.0.9", server.port)), (*families, (server.address, server.port))]

        monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
        bmc = Bmc(started, _at(server, address="bmc.example.invalid"))
        with pytest.raises(BmcUnreachable):
            await bmc.power_is_on()
        assert await bmc.power_is_on() is False


async def test_an_address_family_without_a_socket_is_said_to_be_that() -> None:
    async with hub() as started:
        for sock in started._sockets.pop(socket.AF_INET6, []):
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        with pytest.raises(BmcUnreachable, match="address family"):
            await Bmc(started, BmcInfo("::1")).power_is_on()


def test_completion_codes_have_words() -> None:
    assert "parameter" in completion_text(0x00, 0x08, 0x80).lower()
    assert "0xd5" in completion_text(0x00, 0x02, 0xD5)
    assert completion_text(0x00, 0x02, 0x77) == "completion code 0x77"
    assert isinstance(refused(INFO, 0, 2, 0xD4), BmcPrivilegeTooLow)


def _at(server: Any, **changes: Any) -> BmcInfo:
    return BmcInfo(**{"address": server.address, "port": server.port, "username": ADMIN.name, "password": ADMIN.password, **changes})
