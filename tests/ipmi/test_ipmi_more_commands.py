"""Bridging, raw commands, BMC resets, sensors and the record of the exchange, on the simulator and on ipmi_sim."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.bridge import Answer, Passage
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import background
from metald.drivers.ipmi.info import Bridge, parse
from metald.drivers.ipmi.ipmitool import Ipmitool, IpmitoolManagement
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.recorder import Recorder
from metald.drivers.ipmi.refusal import CompletionCode
from metald.drivers.ipmi.vendor import IpmitoolVendor, PyghmiVendor
from metald.errors import BmcUnreachable, Invalid
from tests.support.bmc import WITH_SENSOR, context, hub, open_ipmi, quick, simulated

_MORE = f"""mc_add 0x30 1 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf03
mc_enable 0x30
{WITH_SENSOR}"""
SINGLE = {"ipmi_bridging": "single", "ipmi_target_channel": "0", "ipmi_target_address": "0x30"}


async def test_a_controller_behind_the_bmc_is_reached(tmp_path: Path) -> None:
    async with open_ipmi(tmp_path, _MORE) as server, hub() as started:
        behind = parse(context(server.address, server.port, **SINGLE).node)
        for transport in (started, Ipmitool(quick())):
            assert (await Bmc(transport, behind).device_id()).product == 0xF03
        assert (await Bmc(started, parse(context(server.address, server.port).node)).device_id()).product == 0xF02
        nobody = parse(context(server.address, server.port, **{**SINGLE, "ipmi_target_address": "0x44"}).node)
        with pytest.raises(CompletionCode) as error:
            await Bmc(started, nobody).device_id()
        assert error.value.completion == 0x83


@given(st.integers(0, 63), st.integers(0, 62).filter(lambda n: n % 2 == 0), st.integers(0, 255), st.binary(max_size=40), st.booleans())
def test_a_bridged_request_is_well_formed_and_knows_its_answer(sequence: int, netfn: int, command: int, data: bytes, dual: bool) -> None:
    bridge = Bridge("0x7", "0x82", "0x0", "0x30") if dual else Bridge("0x7", "0x82")
    passage = Passage(bridge, sequence, netfn, command, data)
    wrapped = passage.data
    for channel, address in ((0, 0x30), (7, 0x82)) if dual else ((7, 0x82),):
        assert wrapped[0] == 0x40 | channel
        message = wrapped[1:]
        assert message[0] == address
        assert sum(message[:3]) & 0xFF == 0
        assert sum(message[3:]) & 0xFF == 0
        wrapped = message[6:-1]
    assert (message[1] >> 2, message[4] >> 2, message[5], wrapped) == (netfn, sequence, command, data)
    if (netfn, command) != (6, 0x34):
        head, tail = bytes((0x20, (netfn | 1) << 2)), bytes((0x82, sequence << 2, command, 0)) + data
        answer = head + bytes((-sum(head) & 0xFF,)) + tail + bytes((-sum(tail) & 0xFF,))
        assert passage.answer(answer) == Answer(netfn | 1, sequence, command, 0, data)
        confirmation = bytes((0x81, 0x1C, 0x63, 0x20, sequence << 2, 0x34, 0))
        assert passage.answer(confirmation + bytes((-sum(confirmation[3:]) & 0xFF,))) is None
        inside = confirmation + answer
        assert passage.answer(inside + bytes((-sum(inside[3:]) & 0xFF,))) == Answer(netfn | 1, sequence, command, 0, data)


@given(st.binary(max_size=64))
def test_whatever_comes_back_from_a_bridge_does_no_harm(message: bytes) -> None:
    Passage(Bridge("0", "0x82"), 5, 6, 1, b"").answer(message)


async def test_raw_commands_and_resets_reach_the_bmc_once() -> None:
    async with simulated() as server, hub() as started:
        for vendor in (PyghmiVendor(started), IpmitoolVendor(quick())):
            ctx = context(server.address, server.port)
            await vendor.validate(ctx)
            before = server.bmc.counters.power_on
            server.bmc.power = False
            assert (await vendor.send_raw(ctx, raw_bytes="0x00 2 0x01")).detail == ""  # type: ignore[union-attr]
            assert server.bmc.counters.power_on == before + 1
            assert (await vendor.send_raw(ctx, raw_bytes="0x06 0x37")).detail == server.bmc.guid.hex(" ")  # type: ignore[union-attr]
        restarts = server.bmc.counters.restarts
        await PyghmiVendor(started).bmc_reset(context(server.address, server.port), warm=False)
        assert server.bmc.counters.restarts == restarts + 1


@pytest.mark.parametrize("raw_bytes", ["0x00", "", "power on", "0x100 0x01", "0x06 -1", "0x40 0x01"])
async def test_what_is_no_raw_command_is_refused(raw_bytes: str) -> None:
    async with hub() as started:
        with pytest.raises(Invalid, match="raw_bytes"):
            await PyghmiVendor(started).send_raw(context("127.0.0.1", 9), raw_bytes=raw_bytes)


async def test_sensors_are_read_by_both_interfaces(tmp_path: Path) -> None:
    async with open_ipmi(tmp_path, _MORE) as server, hub() as started:
        for management in (PyghmiManagement(started, started.settings), IpmitoolManagement(quick())):
            (sensor,) = await management.sensors(context(server.address, server.port))
            assert (sensor.name, sensor.type, sensor.value, sensor.units, sensor.health) == ("CPUTemp", "Temperature", 42.0, "°C", "ok")


async def test_sensors_are_read_in_one_session_also_in_the_background(tmp_path: Path) -> None:
    async with open_ipmi(tmp_path, _MORE) as server, hub() as started:
        management = PyghmiManagement(started, started.settings)
        with background():
            assert await management.sensors(context(server.address, server.port))
        assert started.logins == 1
        assert started.sessions == 0


async def test_a_bmc_that_goes_away_while_sensors_are_read_is_unreachable() -> None:
    async with simulated() as server, hub(command_timeout=0.3, login_timeout=0.2) as started:
        server.bmc.faults.dead = True
        with pytest.raises(BmcUnreachable) as error:
            await PyghmiManagement(started, started.settings).sensors(context(server.address, server.port))
        assert any("login" in line for line in error.value.exchange)


async def test_the_exchange_is_recorded_and_exported_without_secrets() -> None:
    async with simulated() as server, hub() as started:
        ctx, management = context(server.address, server.port), PyghmiManagement(started, started.settings)
        await management.get_boot_device(ctx)
        with pytest.raises(CompletionCode) as error:
            await started.raw(parse(ctx.node), 0x06, 0x47, b"\x02\x02" + b"new-password")
        said = [entry["what"] for entry in management.exchange(ctx)]
        assert said[0] == "login"
        assert any(line.startswith("command 00 09 05 00 00 -> 00 ") for line in said)
        assert "command 06 47 (14 bytes not kept) -> c1" in said
        assert error.value.exchange[-1].endswith(said[-1])
        assert "6e 65 77" not in str(said)


def test_the_record_is_bounded() -> None:
    recorder = Recorder()
    for number in range(1000):
        recorder.command(float(number), 0x2E, 1, bytes(4096), 0, bytes(100))
    assert len(recorder.moments) < 100
    assert recorder.lines(1) == ("+0.000 command 2e 01 (4096 bytes not kept) -> 00 (100 bytes not kept)",)
