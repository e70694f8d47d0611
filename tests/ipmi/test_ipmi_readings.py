"""Sensors, parts, network settings and the event log, by pyghmi's `Command`: of OpenIPMI's ipmi_sim, and of BMCs that send nonsense."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyghmi.exceptions import IpmiException

from metald.drivers.ipmi import readings
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.ipmitool import IpmitoolManagement
from metald.drivers.ipmi.management import IpmiManagement, PyghmiManagement
from metald.drivers.ipmi.pyghmi_command import PyghmiCommands, wait
from metald.drivers.ipmi.refusal import CompletionCode
from metald.errors import BmcRefused, DriverError
from tests.support.bmc import OpenIpmi, context, hub, open_ipmi, quick, simulated


def _fru() -> str:
    """The product area of a FRU device (Platform Management FRU Information Storage Definition, section 12)."""

    def field(text: str) -> bytes:
        return bytes((0xC0 | len(text),)) + text.encode()

    area = b"\x01\x00\x19" + b"".join(map(field, ("ACME", "Rocket", "R-1", "v2", "SN-4711", "TAG", "file"))) + b"\xc1"
    area += bytes(-(len(area) + 1) % 8)
    area = area[:1] + bytes(((len(area) + 1) // 8,)) + area[2:]
    area += bytes((-sum(area) & 0xFF,))
    head = bytes((1, 0, 0, 0, 1, 0, 0))
    data = head + bytes((-sum(head) & 0xFF,)) + area
    return f"mc_add_fru_data 0x20 0 {len(data)} data " + " ".join(f"{byte:#x}" for byte in data)


_RICH = f"""{_fru()}
sel_enable 0x20 100 0x0a
sel_add 0x20 0x02 0 0 0 0x60 0x20 0 0x04 0x01 0x01 0x01 0x57 0x40 0x50
"""


@asynccontextmanager
async def managed(interface: str, server: Any) -> AsyncIterator[IpmiManagement]:
    if interface == "ipmitool":
        yield IpmitoolManagement(quick(command_timeout=30.0))
        return
    async with hub(command_timeout=30.0, login_timeout=20.0) as started:
        yield PyghmiManagement(started, started.settings)


@pytest.fixture(params=["pyghmi", "ipmitool"])
async def rich(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[IpmiManagement, OpenIpmi]]:
    async with open_ipmi(tmp_path, _RICH) as server, managed(request.param, server) as management:
        yield management, server


async def test_what_a_bmc_knows_is_read_by_both_interfaces(rich: tuple[IpmiManagement, OpenIpmi]) -> None:
    management, server = rich
    ctx = context(server.address, server.port)
    (system, *_) = await management.parts(ctx)
    assert system["name"] == "System"
    found = system["info"]
    assert (found["Manufacturer"], found["Product name"], found["Serial Number"]) == ("ACME", "Rocket", "SN-4711")
    (entry,) = await management.event_log(ctx)
    assert "Temperature" in json.dumps(entry)
    assert await management.sensors(ctx) == []  # it has no sensor data records
    json.dumps(await management.parts(ctx))


async def test_the_network_settings_are_those_of_the_channel_in_use() -> None:
    address, gateway = b"\xc0\x00\x02\x07", b"\xc0\x00\x02\x01"
    parameters = {3: address, 4: b"\x01", 5: b"\x02\0\0\0\0\x07", 6: b"\xff\xff\xff\0", 12: gateway, 14: bytes(4)}
    async with simulated() as server, hub() as started:
        server.bmc._commands[0x0C, 0x02] = (2, lambda s, data, now: b"\x00\x11" + parameters.get(data[1], b"\x00\x00"))
        server.bmc._commands[0x06, 0x42] = (2, lambda s, data, now: b"\x00\x01\x04\x01\x00" + bytes(5))
        found = await PyghmiManagement(started, started.settings).network(context(server.address, server.port))
    assert found["ipv4_address"] == "192.0.2.7/24"
    assert found["mac_address"] == "02:00:00:00:00:07"
    assert found["ipv4_configuration"] == "Static"


async def test_a_refusal_is_told_as_the_bmc_said_it() -> None:
    async with simulated() as server, hub() as started:
        management, ctx = PyghmiManagement(started, started.settings), context(server.address, server.port)
        for reading in (management.sensors, management.parts, management.network, management.event_log):
            with pytest.raises(BmcRefused) as error:
                await reading(ctx)  # type: ignore[operator]
            assert "127.0.0.1" in str(error.value)
            assert ".." not in error.value.message
        with pytest.raises(CompletionCode) as refused:
            await management.event_log(ctx)
        assert refused.value.completion == 0xC1


class Scripted:
    """A transport whose BMC answers every command with what the test says."""

    def __init__(self, answer: Callable[[int, int, bytes], bytes | int]) -> None:
        self.answer, self.asked = answer, 0

    async def raw(self, info: BmcInfo, netfn: int, command: int, data: bytes = b"", *, idempotent: bool = True, lun: int = 0) -> bytes:
        self.asked += 1
        found = self.answer(netfn, command, data)
        if self.asked > 400:
            raise BmcRefused("enough")
        if isinstance(found, int):
            raise CompletionCode("no", completion=found)
        return found


_ANSWER = st.one_of(st.binary(max_size=70), st.integers(1, 255))
_VALUE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())


@settings(max_examples=60, derandomize=True)
@given(
    st.dictionaries(st.tuples(st.sampled_from([0x04, 0x06, 0x0A, 0x0C]), st.integers(0, 0x60)), _ANSWER),
    _ANSWER,
    st.sampled_from([readings.sensors, readings.parts, readings.network, readings.event_log]),
)
async def test_nonsense_of_a_bmc_is_an_error_of_the_bmc_or_plain_values(
    answers: dict[tuple[int, int], bytes | int], otherwise: bytes | int, reading: Any
) -> None:
    commands = PyghmiCommands(Scripted(lambda netfn, command, data: answers.get((netfn, command), otherwise)))
    try:
        found = await commands.call(BmcInfo("192.0.2.1"), reading)
    except DriverError:
        return
    if reading is not readings.sensors:
        json.dumps(found)


async def test_an_error_that_is_none_of_the_bmcs_is_told_with_its_kind() -> None:
    commands = PyghmiCommands(Scripted(lambda *_: b""))

    def stumbles(_command: Any) -> None:
        raise IpmiException("odd.")

    with pytest.raises(BmcRefused, match=r"IpmiException: odd\. Update"):
        await commands.call(BmcInfo("192.0.2.1"), stumbles)
    assert callable(wait)


@given(st.recursive(_VALUE, lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_plain_values_are_json(value: Any) -> None:
    json.dumps(readings.plain(value))
