"""Hold, inspect, adopt, rescue, unrescue, service, and clean ones in a ramdisk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.drivers.base import Done, Outcome, StepContext, Wait
from metald.errors import DeployError, Unsupported, WrongState
from metald.model import Fault, ProvisionState, Verb, WorkflowState
from metald.model.caller import SYSTEM
from tests.support.house import House, settings

P = ProvisionState


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


async def test_inspect(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    after = await house.do(node.uuid, Verb.INSPECT, P.MANAGEABLE)
    assert after.inspection_started_at is not None
    assert after.inspection_finished_at is not None


async def test_adopt_then_rescue_and_unrescue(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    await house.do(node.uuid, Verb.ADOPT, P.ACTIVE)
    await house.do(node.uuid, Verb.RESCUE, P.RESCUE, rescue_password="secret")
    assert "rescue_password" not in house.node(node.uuid).instance_info
    await house.do(node.uuid, Verb.UNRESCUE, P.ACTIVE)


async def test_what_the_hardware_cannot_is_refused(house: House) -> None:
    node = await house.add(provision_state=P.ACTIVE, driver="fake-hardware", rescue_interface="no-rescue")
    with pytest.raises(Unsupported, match="does not support rescue"):
        await house.conductor.provision(node.uuid, Verb.RESCUE, SYSTEM, rescue_password="x")
    assert house.node(node.uuid).provision_state is P.ACTIVE


async def test_manual_cleaning_holds_until_unhold(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    steps = [
        {"interface": "deploy", "step": "scrub", "args": {"level": 1}},
        {"interface": "deploy", "step": "hold"},
        {"interface": "power", "step": "wait", "args": {"seconds": 0.001}},
        {"interface": "deploy", "step": "wipe"},
    ]
    held = await house.do(node.uuid, Verb.CLEAN, P.CLEAN_HOLD, clean_steps=steps)
    assert held.clean_step["step"] == "hold"
    assert house.deploy.calls == ["scrub 1", "scrub"]
    await house.do(node.uuid, Verb.UNHOLD, P.MANAGEABLE)
    assert house.deploy.calls == ["scrub 1", "scrub", "wipe"]
    moves = [
        (event.data["event"], event.data["from"], event.data["to"])
        for event in await house.store.events()
        if event.type == "node.provision"
    ]
    assert moves[1:4] == [
        ("hold", "cleaning", "clean hold"),
        ("unhold", "clean hold", "clean wait"),
        ("resume", "clean wait", "cleaning"),
    ]


async def test_a_held_cleaning_can_be_aborted(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    await house.do(node.uuid, Verb.CLEAN, P.CLEAN_HOLD, clean_steps=[{"interface": "deploy", "step": "hold"}])
    failed = await house.do(node.uuid, Verb.ABORT, P.CLEAN_FAILED)
    assert not failed.maintenance
    with pytest.raises(WrongState):
        await house.conductor.provision(node.uuid, Verb.ABORT, SYSTEM)


async def test_a_hold_survives_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path, settings())
    async with house.open():
        node = await house.add(provision_state=P.MANAGEABLE)
        await house.do(node.uuid, Verb.CLEAN, P.CLEAN_HOLD, clean_steps=[{"interface": "deploy", "step": "hold"}])
    async with house.open():
        await house.do(node.uuid, Verb.UNHOLD, P.MANAGEABLE)


@pytest.mark.parametrize("args", [{"seconds": -1}, {"seconds": "x"}, {"minutes": 1}])
async def test_wrong_arguments_of_reserved_steps(house: House, args: dict[str, object]) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    await house.do(node.uuid, Verb.CLEAN, P.CLEAN_FAILED, clean_steps=[{"interface": "deploy", "step": "wait", "args": args}])
    assert "wrong arguments" in str(house.node(node.uuid).last_error)


async def test_service_without_driver_steps(house: House) -> None:
    node = await house.add(provision_state=P.ACTIVE)
    await house.do(node.uuid, Verb.SERVICE, P.ACTIVE, service_steps=[{"interface": "power", "step": "reboot"}])
    assert house.node(node.uuid).power_state == "power on"


async def test_service_abort_of_a_failed_one_goes_back_to_active(house: House) -> None:
    node = await house.add(provision_state=P.SERVICE_FAILED, target_provision_state=P.ACTIVE)
    await house.do(node.uuid, Verb.ABORT, P.ACTIVE)


def _in_ramdisk(house: House) -> None:
    house.deploy.uses_ramdisk = True  # type: ignore[misc]
    house.deploy.ready = False


async def test_cleaning_in_a_ramdisk(house: House) -> None:
    _in_ramdisk(house)
    node = await house.add(provision_state=P.MANAGEABLE)
    await house.do(node.uuid, Verb.PROVIDE, P.CLEAN_WAIT)
    await house.engine.signal(
        node.uuid, "ramdisk", lambda n: {"driver_internal_info": {**n.driver_internal_info, "ramdisk": {"port": 1}}}, []
    )
    await house.until(node.uuid, P.AVAILABLE)
    assert house.boot.calls == ["prepare clean", "clean up ramdisk"]


async def test_an_abortable_step_is_cut_short_and_the_ramdisk_goes(house: House) -> None:
    _in_ramdisk(house)
    house.deploy.ready = True

    async def long(ctx: StepContext) -> Outcome:
        return Wait("never", 1000, "the wipe to end", callback=True)

    house.deploy.scripts["wipe"] = long
    node = await house.add(provision_state=P.MANAGEABLE)
    await house.do(node.uuid, Verb.PROVIDE, P.CLEAN_WAIT)
    failed = await house.do(node.uuid, Verb.ABORT, P.CLEAN_FAILED)
    assert not failed.maintenance
    assert house.boot.calls == ["prepare clean", "clean up ramdisk"]


async def test_a_step_that_cannot_be_cut_short_is_aborted_after_it(house: House) -> None:
    release = asyncio.Event()

    async def long(ctx: StepContext) -> Outcome:
        return Done() if release.is_set() else Wait("scrubbed", 1000, "the scrub to end", callback=True)

    house.deploy.scripts["scrub"] = long
    node = await house.add(provision_state=P.MANAGEABLE)
    steps = [{"interface": "deploy", "step": "scrub", "args": {"level": 1}}, {"interface": "deploy", "step": "wipe"}]
    await house.do(node.uuid, Verb.CLEAN, P.CLEAN_WAIT, clean_steps=steps)
    await house.conductor.provision(node.uuid, Verb.ABORT, SYSTEM)
    waiting = house.node(node.uuid)
    assert (waiting.provision_state, waiting.clean_step["abort_after"]) == (P.CLEAN_WAIT, True)
    release.set()
    await house.engine.signal(node.uuid, "scrubbed", lambda _n: {}, [])
    failed = await house.until(node.uuid, P.CLEAN_FAILED)
    assert "wipe" not in house.deploy.calls
    assert not failed.maintenance
    assert house.workflows(node.uuid)[0].state is WorkflowState.ABORTED


async def test_teardown_that_fails_ends_in_error_and_can_be_repeated(house: House) -> None:
    async def fail(ctx: StepContext) -> Outcome:
        raise DeployError("Cannot forget.")

    house.deploy.scripts["tear_down"] = fail
    node = await house.add(provision_state=P.ACTIVE)
    failed = await house.do(node.uuid, Verb.DELETE, P.ERROR)
    assert not failed.maintenance
    house.deploy.scripts.clear()
    await house.do(node.uuid, Verb.DELETE, P.AVAILABLE)


async def test_teardown_whose_cleaning_fails(house: House) -> None:
    async def fail(ctx: StepContext) -> Outcome:
        raise DeployError("Stuck.")

    house.deploy.scripts["wipe"] = fail
    node = await house.add(provision_state=P.ACTIVE)
    failed = await house.do(node.uuid, Verb.DELETE, P.CLEAN_FAILED)
    assert (failed.maintenance, failed.fault) == (True, Fault.CLEAN)
