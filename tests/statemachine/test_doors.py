"""The rest of what the conductor is asked, and the engine's own bad luck: a store that is away, a defect, a takeover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.base import Done, NodeContext, Outcome, StepContext, Wait
from metald.errors import Busy, Conflict, DeployError, Invalid, StaleVersion, Unavailable, Unsupported, WrongState
from metald.model import BootDevice, Fault, PowerState, PowerTarget, ProvisionState, Verb, Workflow, WorkflowState
from metald.model.caller import SYSTEM
from metald.statemachine import engine as engine_module
from metald.store.changes import Change, Committed
from tests.support.house import House, settings

P = ProvisionState


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


async def test_boot_device_and_nmi(house: House) -> None:
    node = await house.add()
    await house.conductor.set_boot_device(node.uuid, BootDevice.PXE, persistent=True, caller=SYSTEM)
    assert await house.conductor.get_boot_device(node.uuid) == (BootDevice.PXE, True)
    with pytest.raises(Invalid, match="Supported: pxe"):
        await house.conductor.set_boot_device(node.uuid, BootDevice.DISK, persistent=False, caller=SYSTEM)
    with pytest.raises(Unsupported, match="does not support inject_nmi"):
        await house.conductor.inject_nmi(node.uuid, SYSTEM)


async def test_boot_device_of_a_driven_node(tmp_path: Path) -> None:
    house = House(tmp_path, settings(drain_timeout=0.01))
    async with house.open():
        node = await house.add(reservation="test")
        with pytest.raises(Busy):
            await house.conductor.set_boot_device(node.uuid, BootDevice.PXE, persistent=False, caller=SYSTEM)


async def test_an_nmi_that_works_is_an_event(house: House) -> None:
    node = await house.add()

    async def ping(ctx: NodeContext) -> None:
        pass

    house.engine._registry.interface("management", "fake").inject_nmi = ping  # type: ignore[attr-defined]
    await house.conductor.inject_nmi(node.uuid, SYSTEM)
    assert [e.type for e in await house.conductor.timeline(node.uuid)] == ["node.nmi"]


async def test_configdrive_is_kept_with_the_instance(house: House) -> None:
    node = await house.add(provision_state=P.AVAILABLE)
    active = await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE, configdrive={"meta_data": {"a": 1}})
    assert active.instance_info["configdrive"] == {"meta_data": {"a": 1}}


async def test_power_refusals(house: House) -> None:
    cleaning = await house.add(provision_state=P.CLEAN_WAIT)
    with pytest.raises(WrongState, match="while it is in state"):
        await house.conductor.set_power(cleaning.uuid, PowerTarget.ON, SYSTEM)
    always_on = await house.add(disable_power_off=True, power_state=PowerState.ON, provision_state=P.ACTIVE)
    with pytest.raises(Conflict, match="disable_power_off"):
        await house.conductor.set_power(always_on.uuid, PowerTarget.SOFT_OFF, SYSTEM)
    node = await house.add()
    house.engine._registry.interface("power", "fake").supported_targets = lambda _ctx: frozenset()  # type: ignore[attr-defined]
    with pytest.raises(Unsupported, match="does not support power on"):
        await house.conductor.set_power(node.uuid, PowerTarget.ON, SYSTEM)


async def test_a_node_that_must_stay_on_is_restarted_instead(house: House) -> None:
    targets: list[PowerTarget] = []

    async def note(ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:
        targets.append(target)

    house.engine._registry.interface("power", "fake").set_power_state = note  # type: ignore[attr-defined]
    house.deploy.uses_ramdisk = True  # type: ignore[misc]
    node = await house.add(provision_state=P.AVAILABLE, disable_power_off=True, power_state=PowerState.ON)
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert targets == [PowerTarget.REBOOT, PowerTarget.REBOOT]


async def test_locked_nodes_say_so_even_for_verbs_that_do_not_lead_on(house: House) -> None:
    node = await house.add(provision_state=P.DEPLOYING, reservation="test")
    with pytest.raises(Busy):
        await house.conductor.provision(node.uuid, Verb.MANAGE, SYSTEM)
    changing = await house.add(provision_state=P.AVAILABLE, target_power_state=PowerState.ON)
    with pytest.raises(Busy):
        await house.conductor.provision(changing.uuid, Verb.DEPLOY, SYSTEM)
    maintained = await house.add(provision_state=P.MANAGEABLE, maintenance=True)
    with pytest.raises(Invalid, match="maintenance"):
        await house.conductor.provision(maintained.uuid, Verb.CLEAN, SYSTEM, clean_steps=[])


async def test_a_held_state_without_a_workflow_still_leads_on(house: House) -> None:
    node = await house.add(provision_state=P.CLEAN_HOLD, target_provision_state=P.MANAGEABLE)
    await house.conductor.provision(node.uuid, Verb.UNHOLD, SYSTEM)
    assert house.node(node.uuid).provision_state is P.CLEAN_WAIT


async def test_a_step_that_is_no_step_of_the_interface_fails(house: House) -> None:
    node = await house.add(provision_state=P.ACTIVE)
    await house.do(node.uuid, Verb.SERVICE, P.SERVICE_FAILED, service_steps=[{"interface": "deploy", "step": "nothing"}])
    assert "no service step deploy.nothing" in str(house.node(node.uuid).last_error)


async def test_verification_of_a_bmc_that_reports_an_error(house: House) -> None:
    async def error(ctx: NodeContext) -> PowerState:
        return PowerState.ERROR

    house.engine._registry.interface("power", "fake").get_power_state = error  # type: ignore[attr-defined]
    node = await house.add()
    assert "cannot be read" in ((await house.do(node.uuid, Verb.MANAGE, P.ENROLL)).last_error or "")


def _failing(house: House, error: Exception, times: int) -> list[int]:
    """Make the store refuse the next `times` commits that write a journal line."""
    left = [times]
    commit = house.store.commit

    async def refuse(change: Change) -> Committed:
        if change.journal and left[0] > 0:
            left[0] -= 1
            raise error
        return await commit(change)

    house.store.commit = refuse  # type: ignore[method-assign]
    return left


async def test_a_store_that_is_away_is_waited_for(house: House) -> None:
    left = _failing(house, Unavailable("The database is away."), 2)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert left == [0]
    assert house.deploy.calls == ["prepare", "first", "second"]


async def test_a_workflow_that_another_daemon_took_is_left_alone(house: House) -> None:
    _failing(house, StaleVersion("The row has changed."), 1)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    assert await house.engine.idle(node.uuid, 10)
    assert house.deploy.calls == ["prepare"]
    assert house.node(node.uuid).provision_state is P.DEPLOYING


async def test_a_defect_of_the_engine_fails_one_node_and_no_other(house: House, caplog: pytest.LogCaptureFixture) -> None:
    _failing(house, ZeroDivisionError("defect"), 1)
    node = await house.add(provision_state=P.AVAILABLE)
    failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
    assert "Internal error in workflow" in (failed.last_error or "")
    assert house.workflows(node.uuid)[0].cause == "internal"
    assert "ZeroDivisionError" in caplog.text
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)


async def test_a_defect_where_no_failure_leads_on_still_unlocks_the_node(house: House) -> None:
    _failing(house, ZeroDivisionError("defect"), 1)
    node = await house.add(provision_state=P.ACTIVE, power_state=PowerState.OFF)
    await house.conductor.set_power(node.uuid, PowerTarget.ON, SYSTEM)
    assert await house.engine.idle(node.uuid, 10)
    after = house.node(node.uuid)
    assert (after.reservation, after.target_power_state, after.provision_state) == (None, None, P.ACTIVE)


async def test_a_deadline_while_the_store_is_away_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "STORE_PAUSE", 0.01)
    house = House(tmp_path, settings())
    async with house.open():
        commit = house.store.commit
        away = [2]

        async def refuse(change: Change) -> Committed:
            wakes = any(isinstance(r, Workflow) and r.state is WorkflowState.RUNNING and r.cursor for r in change.save)
            if wakes and not change.journal and away[0]:
                away[0] -= 1
                raise Unavailable("away")
            return await commit(change)

        async def once(ctx: StepContext) -> Outcome:
            ctx.memo["n"] = ctx.memo.get("n", 0) + 1
            return Done() if ctx.memo["n"] > 1 else Wait("timer", 0.001, "a moment")

        house.deploy.scripts["first"] = once
        house.store.commit = refuse  # type: ignore[method-assign]
        node = await house.add(provision_state=P.AVAILABLE)
        await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
        assert away == [0]


async def test_what_came_in_the_last_moment_is_found_at_the_deadline(tmp_path: Path) -> None:
    house = House(tmp_path, settings(deploy_callback_timeout=0.02))
    async with house.open():
        house.deploy.uses_ramdisk = True  # type: ignore[misc]
        answers = iter([False, True])

        async def ready(ctx: StepContext) -> bool:
            return next(answers)

        house.deploy.ramdisk_ready = ready  # type: ignore[method-assign]
        node = await house.add(provision_state=P.AVAILABLE)
        await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)


async def test_signals_for_nodes_that_are_gone_are_dropped(house: House) -> None:
    def never(_node: Any) -> dict[str, Any]:
        raise AssertionError

    await house.engine.signal("nobody", "ramdisk", never, [])


async def test_service_in_a_ramdisk_and_its_failure(house: House) -> None:
    house.deploy.uses_ramdisk = True  # type: ignore[misc]

    async def fail(ctx: StepContext) -> Outcome:
        raise DeployError("Stuck.")

    house.deploy.scripts["polish"] = fail
    node = await house.add(provision_state=P.ACTIVE)
    failed = await house.do(node.uuid, Verb.SERVICE, P.SERVICE_FAILED, service_steps=[{"interface": "deploy", "step": "polish"}])
    assert (failed.maintenance, failed.fault) == (True, Fault.SERVICE)
    assert house.boot.calls == ["prepare service", "clean up ramdisk"]
    async with house.store.owning(node.uuid):
        await house.store.commit(Change(save=[house.node(node.uuid).changed(maintenance=False)]))
    house.deploy.scripts.clear()
    await house.do(node.uuid, Verb.SERVICE, P.ACTIVE, service_steps=[{"interface": "deploy", "step": "polish"}])
    assert house.node(node.uuid).power_state is PowerState.ON


async def test_sigterm_leaves_a_long_step_to_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path, settings(drain_timeout=0.01))
    started = asyncio.Event()

    async def hang(ctx: StepContext) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        return Done()

    house.deploy.scripts["first"] = hang
    async with house.open():
        node = await house.add(provision_state=P.AVAILABLE)
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
        await started.wait()
        await house.engine.stop()
        await house.conductor.set_power((await house.add()).uuid, PowerTarget.ON, SYSTEM)
    house.deploy.scripts.clear()
    async with house.open():
        await house.until(node.uuid, P.ACTIVE)
