"""The engine with scripted drivers: every way a step can end, and every way a workflow goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.drivers.base import Done, Outcome, StepContext
from metald.errors import BmcUnreachable, Busy, DeployError, Invalid, NotAllowed, NotFound, WrongState
from metald.model import Fault, PowerState, PowerTarget, ProvisionState, Verb, WorkflowState
from metald.model.caller import SYSTEM
from metald.store.changes import Change
from tests.support.house import House, settings

P = ProvisionState


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


async def test_from_enroll_to_active_and_back(house: House) -> None:
    node = await house.add()
    await house.do(node.uuid, Verb.MANAGE, P.MANAGEABLE)
    assert house.node(node.uuid).power_state is PowerState.OFF
    await house.do(node.uuid, Verb.PROVIDE, P.AVAILABLE)
    active = await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert (active.power_state, active.last_error, active.workflow, active.deploy_step) == (PowerState.ON, None, None, {})
    assert house.deploy.calls == ["wipe", "prepare", "first", "second"]
    await house.store.commit(Change(save=[active.changed(instance_info={"image_source": "x"}, instance_uuid=active.uuid)]))
    gone = await house.do(node.uuid, Verb.DELETE, P.AVAILABLE)
    assert (gone.instance_info, gone.instance_uuid, gone.power_state) == ({}, None, PowerState.OFF)
    ends = [e.data["state"] for e in await house.conductor.timeline(node.uuid) if e.type == "node.workflow"]
    assert ends == [WorkflowState.DONE] * 4
    assert [w.state for w in house.workflows(node.uuid)] == [WorkflowState.DONE]


async def test_events_tell_the_whole_story_in_order(house: House) -> None:
    node = await house.add()
    await house.do(node.uuid, Verb.MANAGE, P.MANAGEABLE)
    events = await house.conductor.timeline(node.uuid)
    assert [(e.type, e.data.get("event") or e.data.get("step")) for e in events] == [
        ("node.provision", "manage"),
        ("node.step_begun", "verify"),
        ("node.power_seen", None),
        ("node.step", "verify"),
        ("node.provision", "done"),
        ("node.workflow", None),
    ]
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    journal = await house.store.journal(node_uuid=node.uuid)
    assert [(r.step, r.outcome) for r in journal] == [("verify", "done")]


async def test_verification_that_fails_goes_back_to_enroll(tmp_path: Path) -> None:
    house = House(tmp_path, settings())

    async def refuse(*_: object) -> PowerState:
        raise DeployError("The BMC is on fire.", remedy="Call somebody.")

    async with house.open():
        house.engine._registry.interface("power", "fake").get_power_state = refuse  # type: ignore[attr-defined]
        node = await house.add()
        back = await house.do(node.uuid, Verb.MANAGE, P.ENROLL)
        assert back.last_error == "Failed at step power.verify: The BMC is on fire. Call somebody."
        assert back.target_provision_state is None


async def test_a_step_that_fails_ends_the_deployment(house: House) -> None:
    async def fail(ctx: StepContext) -> Outcome:
        raise DeployError("The disk is too small.", remedy="Use another image.")

    house.deploy.scripts["second"] = fail
    node = await house.add(provision_state=P.AVAILABLE)
    failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
    assert failed.last_error == "Failed at step deploy.second: The disk is too small. Use another image."
    assert failed.target_provision_state is P.ACTIVE
    (workflow,) = house.workflows(node.uuid)
    assert (workflow.state, workflow.cause) == (WorkflowState.FAILED, "deploy")
    house.deploy.scripts.clear()
    assert (await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)).last_error is None


async def test_a_defect_ends_the_deployment_without_its_traceback(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ctx: StepContext) -> Outcome:
        raise ZeroDivisionError("secret")

    house.deploy.scripts["first"] = broken
    node = await house.add(provision_state=P.AVAILABLE)
    failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
    assert "Internal error in step deploy.first" in (failed.last_error or "")
    assert "secret" not in (failed.last_error or "")
    assert "ZeroDivisionError" in caplog.text


async def test_a_passing_failure_is_tried_again(house: House) -> None:
    tries = 0

    async def flaky(ctx: StepContext) -> Outcome:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise BmcUnreachable("No answer.")
        return Done()

    house.deploy.scripts["first"] = flaky
    node = await house.add(provision_state=P.AVAILABLE)
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    outcomes = [r.outcome for r in await house.store.journal(node_uuid=node.uuid) if r.step == "first"]
    assert outcomes == ["retry", "retry", "done"]


async def test_a_passing_failure_that_stays_fails(house: House) -> None:
    async def dead(ctx: StepContext) -> Outcome:
        raise BmcUnreachable("No answer.")

    house.deploy.scripts["first"] = dead
    node = await house.add(provision_state=P.AVAILABLE)
    failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
    assert "No answer." in (failed.last_error or "")
    assert house.deploy.calls.count("first") == 3


async def test_a_restart_goes_on_with_the_running_step(tmp_path: Path) -> None:
    house = House(tmp_path, settings(drain_timeout=0.01))
    hanging = asyncio.Event()

    async def hang(ctx: StepContext) -> Outcome:
        ctx.memo["mark"] = "kept"
        ctx.set(extra={"seen": True})
        ctx.note("image_written", disk="sda", bytes=1, seconds=0.1, sha512="0")
        await ctx.checkpoint()
        hanging.set()
        await asyncio.Event().wait()
        return Done()

    house.deploy.scripts["second"] = hang
    async with house.open():
        node = await house.add(provision_state=P.AVAILABLE)
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
        await hanging.wait()
    assert house.deploy.calls == ["prepare", "first", "second"]

    async def look(ctx: StepContext) -> Outcome:
        assert ctx.memo["mark"] == "kept"
        return Done()

    house.deploy.scripts["second"] = look
    async with house.open():
        active = await house.until(node.uuid, P.ACTIVE)
        assert active.extra == {"seen": True}
        assert "node.image_written" in [e.type for e in await house.conductor.timeline(node.uuid)]
    assert house.deploy.calls == ["prepare", "first", "second", "second"]


async def test_two_verbs_at_once_start_one_workflow(tmp_path: Path) -> None:
    import msgspec

    base = settings()
    house = House(tmp_path, msgspec.structs.replace(base, api=msgspec.structs.replace(base.api, lock_wait=0.05)))
    release = asyncio.Event()

    async def hold(ctx: StepContext) -> Outcome:
        await release.wait()
        return Done()

    house.deploy.scripts["prepare"] = hold
    async with house.open():
        node = await house.add(provision_state=P.AVAILABLE)
        results = await asyncio.gather(
            *(house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM) for _ in range(5)), return_exceptions=True
        )
        assert sum(r is None for r in results) == 1
        assert all(r is None or isinstance(r, Busy) for r in results)
        assert "is locked by host test" in str(next(r for r in results if r))
        with pytest.raises(Busy):
            await house.conductor.set_power(node.uuid, PowerTarget.OFF, SYSTEM)
        release.set()
        await house.until(node.uuid, P.ACTIVE)


async def test_power(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    for target, expected in ((PowerTarget.ON, PowerState.ON), (PowerTarget.SOFT_OFF, PowerState.OFF), (PowerTarget.REBOOT, PowerState.ON)):
        await house.conductor.set_power(node.uuid, target, SYSTEM, timeout=5)
        assert house.node(node.uuid).target_power_state is not None
        after = await house.until(node.uuid, P.MANAGEABLE)
        assert (after.power_state, after.target_power_state) == (expected, None)


async def test_power_that_fails(house: House) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise DeployError("No.")

    house.engine._registry.interface("power", "fake").set_power_state = refuse  # type: ignore[attr-defined]
    node = await house.add(provision_state=P.MANAGEABLE, power_state=PowerState.OFF)
    await house.conductor.set_power(node.uuid, PowerTarget.ON, SYSTEM)
    after = await house.until(node.uuid, P.MANAGEABLE)
    assert (after.power_state, after.target_power_state) == (PowerState.OFF, None)
    assert "Failed to change power state to 'power on'" in (after.last_error or "")


async def test_what_the_conductor_refuses(house: House) -> None:
    with pytest.raises(NotFound):
        await house.conductor.provision("nope", Verb.MANAGE, SYSTEM)
    node = await house.add()
    with pytest.raises(WrongState, match='"deploy" can not be performed'):
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    maintained = await house.add(provision_state=P.AVAILABLE, maintenance=True)
    with pytest.raises(Invalid, match="maintenance mode"):
        await house.conductor.provision(maintained.uuid, Verb.DEPLOY, SYSTEM)
    protected = await house.add(provision_state=P.ACTIVE, protected=True)
    with pytest.raises(NotAllowed, match="protected"):
        await house.conductor.provision(protected.uuid, Verb.DELETE, SYSTEM)
    retired = await house.add(provision_state=P.MANAGEABLE, retired=True)
    with pytest.raises(Invalid, match="retired"):
        await house.conductor.provision(retired.uuid, Verb.PROVIDE, SYSTEM)


async def test_steps_that_cannot_be_run_fail_before_the_machine_is_touched(house: House) -> None:
    for steps, text in (
        ([{"interface": "deploy", "step": "nope"}], "no clean step deploy.nope"),
        ([{"interface": "deploy", "step": "scrub"}], "needs the argument level"),
        ([{"interface": "deploy", "step": "scrub", "args": {"level": 1, "x": 2}}], "does not know the argument x"),
    ):
        node = await house.add(provision_state=P.MANAGEABLE)
        await house.do(node.uuid, Verb.CLEAN, P.CLEAN_FAILED, clean_steps=steps)
        failed = house.node(node.uuid)
        assert text in str(failed.last_error)
        assert failed.maintenance is False
    assert house.deploy.calls == []


async def test_manual_cleaning_comes_back_to_manageable(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE)
    steps = [{"interface": "deploy", "step": "scrub", "args": {"level": 3}}, {"interface": "deploy", "step": "wipe"}]
    await house.do(node.uuid, Verb.CLEAN, P.MANAGEABLE, clean_steps=steps)
    assert house.deploy.calls == ["scrub 3", "scrub", "wipe"]


async def test_cleaning_that_fails_in_a_step_puts_the_node_into_maintenance(house: House) -> None:
    async def fail(ctx: StepContext) -> Outcome:
        raise DeployError("Stuck.")

    house.deploy.scripts["wipe"] = fail
    node = await house.add(provision_state=P.MANAGEABLE)
    failed = await house.do(node.uuid, Verb.PROVIDE, P.CLEAN_FAILED)
    assert (failed.maintenance, failed.fault) == (True, Fault.CLEAN)
    assert "Stuck." in (failed.maintenance_reason or "")
    assert (await house.do(node.uuid, Verb.MANAGE, P.MANAGEABLE)).last_error is None


async def test_cleaning_that_is_turned_off_passes_at_once(house: House) -> None:
    node = await house.add(provision_state=P.MANAGEABLE, automated_clean=False)
    await house.do(node.uuid, Verb.PROVIDE, P.AVAILABLE)
    assert house.deploy.calls == []


async def test_a_metadata_change_during_a_step_is_kept(house: House) -> None:
    node = await house.add(provision_state=P.AVAILABLE)

    async def meanwhile(ctx: StepContext) -> Outcome:
        ctx.set(driver_internal_info={**ctx.node.driver_internal_info, "mine": 1})
        async with house.store.owning(node.uuid):
            current = house.node(node.uuid)
            info = {**current.driver_internal_info, "theirs": 2}
            await house.store.commit(Change(save=[current.changed(description="x", driver_internal_info=info)]))
        return Done()

    house.deploy.scripts["first"] = meanwhile
    active = await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert active.description == "x"
    assert active.driver_internal_info["mine"] == 1
    assert active.driver_internal_info["theirs"] == 2


async def test_a_node_that_is_deleted_under_its_workflow_ends_it(house: House) -> None:
    node = await house.add(provision_state=P.AVAILABLE)

    async def vanish(ctx: StepContext) -> Outcome:
        async with house.store.owning(node.uuid):
            await house.store.commit(Change(delete=[house.node(node.uuid)]))
        return Done()

    house.deploy.scripts["first"] = vanish
    await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    assert await house.engine.idle(node.uuid, 10)
    assert house.deploy.calls == ["prepare", "first"]


async def test_deploy_steps_of_a_request_change_the_plan(house: House) -> None:
    node = await house.add(provision_state=P.AVAILABLE)
    steps = [{"interface": "deploy", "step": "second", "priority": 95}, {"interface": "deploy", "step": "first", "priority": 0}]
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE, deploy_steps=steps)
    assert house.deploy.calls == ["prepare", "second"]


async def test_progress_is_visible_while_the_step_runs(house: House) -> None:
    seen = {}

    async def show(ctx: StepContext) -> Outcome:
        ctx.progress(bytes=5, total=10)
        seen.update(house.conductor.progress(node.uuid))
        return Done()

    house.deploy.scripts["first"] = show
    node = await house.add(provision_state=P.AVAILABLE)
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert seen == {"bytes": 5, "total": 10}
    assert house.conductor.progress(node.uuid) == {}


async def test_validate_and_boot_device(house: House) -> None:
    node = await house.add()
    found = await house.conductor.validate(node.uuid)
    assert found["power"] is None
    assert "does not support raid" in (found["raid"] or "") or found["raid"] is None
    assert len(found) == 12
    assert house.conductor.supported_boot_devices(node.uuid) == ("pxe",)


async def test_a_step_that_hangs_is_given_up(tmp_path: Path) -> None:
    house = House(tmp_path, settings(step_timeout=0.02))

    async def hang(ctx: StepContext) -> Outcome:
        await asyncio.Event().wait()
        return Done()

    house.deploy.scripts["first"] = hang
    async with house.open():
        node = await house.add(provision_state=P.AVAILABLE)
        failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
        assert "took longer than" in (failed.last_error or "")
        assert house.workflows(node.uuid)[0].cause == "deadline"


async def test_a_drivers_own_timeout_error_is_a_defect_not_a_deadline(house: House) -> None:
    async def leak(ctx: StepContext) -> Outcome:
        raise TimeoutError

    house.deploy.scripts["first"] = leak
    node = await house.add(provision_state=P.AVAILABLE)
    failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
    assert "Internal error" in (failed.last_error or "")
