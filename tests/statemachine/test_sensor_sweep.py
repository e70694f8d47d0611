"""Sensors of the fleet as a stream, and as Prometheus reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metald.drivers.base import Sensor
from metald.errors import BmcUnreachable
from metald.http import exposition
from metald.model import ProvisionState as P
from metald.statemachine.sensor_sweep import Reading, SensorSweep
from metald.store.changes import Change
from tests.support.house import House, settings

FAN = Sensor("FAN 1", "Fan", 4200.0, "RPM", "ok", ())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


@contextlib.asynccontextmanager
async def sweeping(house: House, interval: float = 0.01) -> AsyncIterator[SensorSweep]:
    sweep = SensorSweep(house.store, house.engine._registry, interval, contextlib.nullcontext)
    running = asyncio.create_task(sweep.run())
    try:
        yield sweep
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def reads(house: House, sensors: Callable[[Any], Any]) -> None:
    house.engine._registry.interface("management", "fake").sensors = sensors  # type: ignore[attr-defined]


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


async def test_each_node_is_read_and_what_is_gone_or_busy_is_not(house: House) -> None:
    asked: list[str] = []

    async def sensors(ctx: Any) -> Sequence[Sensor]:
        asked.append(ctx.node.name)
        if ctx.node.name == "dead":
            raise BmcUnreachable("It does not answer.")
        return [FAN]

    reads(house, sensors)
    good = await house.add(driver="fake-hardware", name="good", provision_state=P.ACTIVE)
    dead = await house.add(driver="fake-hardware", name="dead", provision_state=P.ACTIVE)
    await house.add(driver="fake-hardware", name="new", provision_state=P.ENROLL)
    await house.add(driver="fake-hardware", name="ill", provision_state=P.ACTIVE, maintenance=True)
    async with sweeping(house) as sweep:
        await until(lambda: asked.count("good") > 2 and asked.count("dead") > 2)
        assert set(asked) == {"good", "dead"}
        assert sweep.readings[good.uuid].sensors == (FAN,)
        assert sweep.readings[dead.uuid].failed
        async with house.store.owning(good.uuid):
            await house.store.commit(Change(delete=[house.node(good.uuid)]))
        await until(lambda: good.uuid not in sweep.readings)


async def test_a_defect_of_one_node_stops_nobody(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def sensors(ctx: Any) -> Sequence[Sensor]:
        if ctx.node.name == "odd":
            raise RuntimeError("odd")
        return [FAN]

    reads(house, sensors)
    await house.add(driver="fake-hardware", name="odd", provision_state=P.ACTIVE)
    good = await house.add(driver="fake-hardware", name="good", provision_state=P.ACTIVE)
    async with sweeping(house) as sweep:
        await until(lambda: good.uuid in sweep.readings and "has a defect" in caplog.text)


async def test_a_driver_without_sensors_leaves_no_reading(house: House) -> None:
    node = await house.add(driver="fake-hardware", provision_state=P.ACTIVE, management_interface="noop")
    done = asyncio.Event()
    async with sweeping(house) as sweep:
        look = sweep._read

        async def read(uuid: str) -> None:
            await look(uuid)
            done.set()

        sweep._read = read  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            await done.wait()
        assert node.uuid not in sweep.readings


async def test_no_interval_reads_nothing(house: House) -> None:
    await SensorSweep(house.store, house.engine._registry, 0.0, contextlib.nullcontext).run()


def parsed(readings: dict[str, Reading]) -> dict[tuple[str, tuple[str, ...]], float]:
    text = exposition.sensors(readings).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_is_told() -> None:
    psu = Sensor("PSU 1", "Power Supply", None, "", "critical", ("failure",))
    found = parsed({"u1": Reading("m1", 1000.5, (FAN, psu, FAN)), "u2": Reading("", 7.0, (), failed=True)})
    assert found == {
        ("metald_sensor", ("u1", "m1", "FAN 1", "Fan", "RPM")): 4200.0,
        ("metald_sensor_health", ("u1", "m1", "FAN 1", "Fan")): 0.0,
        ("metald_sensor_health", ("u1", "m1", "PSU 1", "Power Supply")): 2.0,
        ("metald_sensors_read_failed", ("u1", "m1")): 0.0,
        ("metald_sensors_read_failed", ("u2", "")): 1.0,
        ("metald_sensors_read_at_seconds", ("u1", "m1")): 1000.5,
        ("metald_sensors_read_at_seconds", ("u2", "")): 7.0,
    }


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
def test_whatever_a_bmc_calls_its_sensors_it_is_one_line_each(sensors: list[tuple[str, str, float]]) -> None:
    made = tuple(Sensor(name, "Other", value, unit, "odd", ()) for name, unit, value in sensors)
    found = parsed({"u1": Reading("m1", 1.0, made)})
    values = [value for (name, _), value in found.items() if name == "metald_sensor"]
    assert len(values) == len({(name, unit) for name, unit, _ in sensors})
