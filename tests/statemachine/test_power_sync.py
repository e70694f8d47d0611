"""Power sync as a stream: its pace, and what it does about power that is not as it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from metald.errors import BmcUnreachable
from metald.model import Event, Fault, PowerState, PowerTarget
from metald.model import ProvisionState as P
from metald.model.caller import SYSTEM
from metald.statemachine.power_sync import PowerSync
from tests.support.house import House, settings


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


@contextlib.asynccontextmanager
async def syncing(house: House, interval: float, *, correct: bool = False) -> AsyncIterator[PowerSync]:
    async def change(uuid: str, target: PowerTarget) -> None:
        await house.conductor.set_power(uuid, target, SYSTEM)

    sync = PowerSync(house.store, house.engine._registry, interval, contextlib.nullcontext, change if correct else None)
    running = asyncio.create_task(sync.run())
    try:
        yield sync
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def power(house: House) -> Any:
    return house.engine._registry.interface("power", "fake")


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


async def test_nodes_have_each_their_own_moment(house: House) -> None:
    for _ in range(40):
        await house.add(driver="fake-hardware", provision_state=P.ACTIVE)
    asked = []
    first = asyncio.Event()

    async def look(ctx: Any) -> PowerState:
        asked.append(ctx.node.uuid)
        first.set()
        return PowerState.ON

    power(house).get_power_state = look
    async with syncing(house, 4000.0):
        await first.wait()
        await asyncio.sleep(0)
        assert len(asked) == 1
    asked.clear()
    async with syncing(house, 0.2):
        await until(lambda: len(asked) >= 120)
    assert len(set(asked[:40])) == 40
    assert asked[:40] == asked[40:80]


async def test_a_difference_is_reported_and_nothing_else_by_default(house: House) -> None:
    node = await house.add(driver="fake-hardware", provision_state=P.ACTIVE, power_state=PowerState.OFF)
    await house.conductor.set_power(node.uuid, PowerTarget.ON, SYSTEM)
    await until(lambda: house.node(node.uuid).power_state is PowerState.ON and house.node(node.uuid).reservation is None)
    seen: list[Event] = []
    house.store.subscribe(seen.extend)
    house.hardware.set_power(node, PowerState.OFF)
    async with syncing(house, 0.02) as sync:
        await until(lambda: house.node(node.uuid).power_state is PowerState.OFF)
        sync._strikes.clear()
    assert [event.data for event in seen if event.type == "node.power_seen"] == [
        {"from": "power on", "to": "power off", "wanted": "power on"}
    ]
    assert not any(event.type == "node.power" for event in seen)
    assert house.hardware.power(house.node(node.uuid)) is PowerState.OFF


async def test_a_difference_is_corrected_where_that_is_asked_for(house: House) -> None:
    node = await house.add(driver="fake-hardware", provision_state=P.ACTIVE, power_state=PowerState.OFF)
    await house.conductor.set_power(node.uuid, PowerTarget.ON, SYSTEM)
    await until(lambda: house.node(node.uuid).power_state is PowerState.ON and house.node(node.uuid).reservation is None)
    house.hardware.set_power(node, PowerState.OFF)
    async with syncing(house, 0.02, correct=True):
        await until(lambda: house.hardware.power(node) is PowerState.ON)
        await until(lambda: house.node(node.uuid).power_state is PowerState.ON and house.node(node.uuid).reservation is None)
    assert house.node(node.uuid).fault is None


async def test_power_that_does_not_stay_is_a_fault_after_three_corrections_and_then_left_alone(house: House) -> None:
    node = await house.add(
        driver="fake-hardware", provision_state=P.ACTIVE, power_state=PowerState.ON, driver_internal_info={"power_wanted": "power on"}
    )
    house.hardware.set_power(node, PowerState.OFF)
    asked: list[PowerTarget] = []

    async def accept(_ctx: Any, target: PowerTarget, *, timeout: float | None = None) -> None:
        asked.append(target)

    power(house).set_power_state = accept
    faults: list[Event] = []
    house.store.subscribe(lambda events: faults.extend(e for e in events if e.type == "node.maintenance"))
    async with syncing(house, 0.02, correct=True):
        await until(lambda: len(faults) == 2)  # out of service, and back, because the power can be read
        assert asked == [PowerTarget.ON] * 3
        assert "did not stay at power on in 3 corrections" in faults[0].data["reason"]
    assert "power_wanted" not in house.node(node.uuid).driver_internal_info
    assert house.node(node.uuid).fault != Fault.POWER


async def test_the_fault_tells_what_was_said_to_the_bmc_last(house: House) -> None:
    node = await house.add(driver="fake-hardware", provision_state=P.ACTIVE)

    async def look(_ctx: Any) -> PowerState:
        error = BmcUnreachable("No answer.")
        error.exchange = ("+0.000 login", "+5.000 failed")
        raise error

    power(house).get_power_state = look
    faults: list[Event] = []
    house.store.subscribe(lambda events: faults.extend(e for e in events if e.type == "node.maintenance"))
    async with syncing(house, 0.02):
        await until(lambda: faults)
    assert faults[0].data["exchange"] == ["+0.000 login", "+5.000 failed"]
    assert house.node(node.uuid).fault == Fault.POWER
