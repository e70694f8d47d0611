"""The engine while a workflow waits: what wakes it, what does not, and how a wait ends that nothing ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.drivers.base import Done, Outcome, StepContext, Wait
from metald.errors import DeployError
from metald.model import Event, Node, PowerState, PowerTarget, ProvisionState, Verb, WorkflowState
from tests.support.house import House, settings

P = ProvisionState


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


def _ramdisk(house: House) -> None:
    house.deploy.uses_ramdisk = True  # type: ignore[misc]
    house.deploy.ready = False


def _call(node: Node) -> dict[str, object]:
    return {"driver_internal_info": {**node.driver_internal_info, "ramdisk": {"port": 22}}}


async def test_a_waiting_deployment_goes_on_when_its_ramdisk_calls(house: House) -> None:
    _ramdisk(house)
    node = await house.add(provision_state=P.AVAILABLE)
    waiting = await house.do(node.uuid, Verb.DEPLOY, P.WAIT_CALL_BACK)
    assert waiting.deploy_step["step"] == "wait_ramdisk"
    await house.engine.signal(node.uuid, "something else", lambda _n: {}, [])
    assert house.node(node.uuid).provision_state is P.WAIT_CALL_BACK
    await house.engine.signal(node.uuid, "ramdisk", _call, [Event(type="node.ramdisk", node_uuid=node.uuid, data={"address": "192.0.2.7"})])
    active = await house.until(node.uuid, P.ACTIVE)
    assert "ramdisk" not in active.driver_internal_info
    assert house.boot.calls == ["prepare deploy", "clean up ramdisk", "prepare instance"]


async def test_a_call_before_the_wait_is_not_lost(house: House) -> None:
    _ramdisk(house)
    node = await house.add(provision_state=P.AVAILABLE)

    async def slow(*_: object, **__: object) -> None:
        await house.engine.signal(node.uuid, "ramdisk", _call, [])

    power = house.engine._registry.interface("power", "fake")
    original = power.set_power_state  # type: ignore[attr-defined]

    async def on_and_call(ctx: StepContext, target: PowerTarget, **kwargs: object) -> None:
        await original(ctx, target, **kwargs)
        if target is PowerTarget.ON:
            await slow()

    power.set_power_state = on_and_call  # type: ignore[attr-defined]
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)


async def test_a_call_that_is_written_while_the_step_looks_is_not_lost(house: House) -> None:
    _ramdisk(house)
    node = await house.add(provision_state=P.AVAILABLE)
    looks = house.deploy.ramdisk_ready
    calls: list[asyncio.Task[None]] = []

    async def look_while_it_calls(ctx: StepContext) -> bool:
        ready = await looks(ctx)
        if not calls:
            calls.append(asyncio.create_task(house.engine.signal(node.uuid, "ramdisk", _call, [])))
            await asyncio.sleep(0)  # the call holds the node now, and is being written
        return ready

    house.deploy.ramdisk_ready = look_while_it_calls  # type: ignore[method-assign]
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    await calls[0]


async def test_a_machine_that_missed_its_network_boot_is_booted_again(tmp_path: Path) -> None:
    house = House(tmp_path, settings(deploy_callback_timeout=0.1))
    async with house.open():
        _ramdisk(house)
        node = await house.add(provision_state=P.AVAILABLE)

        async def ready_in_the_second_boot(ctx: StepContext) -> bool:
            workflow = house.workflows(ctx.node.uuid)[0]
            return workflow.steps[workflow.cursor].args.get("boots") == 1

        house.deploy.ramdisk_ready = ready_in_the_second_boot  # type: ignore[method-assign]
        await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
        lines = [(r.step, r.outcome) for r in await house.store.journal(node_uuid=node.uuid)]
    at = lines.index(("wait_ramdisk", "retry"))
    assert lines[at - 1 : at + 5] == [
        ("wait_ramdisk", "wait"),
        ("wait_ramdisk", "retry"),
        ("power_off", "done"),
        ("set_boot_device", "done"),
        ("power_on", "done"),
        ("wait_ramdisk", "done"),
    ]
    assert house.boot.calls.count("prepare deploy") == 1


async def test_a_ramdisk_that_never_calls_fails_at_its_deadline_and_is_cleaned_up(tmp_path: Path) -> None:
    house = House(tmp_path, settings(deploy_callback_timeout=0.05))
    async with house.open():
        _ramdisk(house)
        node = await house.add(provision_state=P.AVAILABLE)
        failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
        assert "Waited for the ramdisk to boot and call in vain." in (failed.last_error or "")
        assert "did not ask for any boot file" in (failed.last_error or "")
        assert house.workflows(node.uuid)[0].cause == "deadline"
        assert house.boot.calls == ["prepare deploy", "clean up ramdisk"]
        assert failed.power_state is PowerState.OFF


async def test_cleaning_up_goes_on_past_its_own_failures(tmp_path: Path) -> None:
    house = House(tmp_path, settings(deploy_callback_timeout=0.02))
    async with house.open():
        _ramdisk(house)

        async def broken(ctx: StepContext) -> None:
            house.boot.calls.append("tried")
            raise DeployError("cannot")

        house.boot.clean_up_ramdisk = broken  # type: ignore[method-assign]
        node = await house.add(provision_state=P.AVAILABLE)
        failed = await house.do(node.uuid, Verb.DEPLOY, P.DEPLOY_FAILED)
        assert "in vain" in (failed.last_error or "")
        assert house.boot.calls == ["prepare deploy", "tried"]


async def test_a_timer_calls_the_step_again(house: House) -> None:
    async def twice(ctx: StepContext) -> Outcome:
        ctx.memo["seen"] = ctx.memo.get("seen", 0) + 1
        return Done() if ctx.memo["seen"] == 3 else Wait("timer", 0.001, "a moment")

    house.deploy.scripts["first"] = twice
    node = await house.add(provision_state=P.AVAILABLE)
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert house.deploy.calls.count("first") == 3


async def test_a_restart_keeps_waiting(tmp_path: Path) -> None:
    house = House(tmp_path, settings())
    _ramdisk(house)
    async with house.open():
        node = await house.add(provision_state=P.AVAILABLE)
        await house.do(node.uuid, Verb.DEPLOY, P.WAIT_CALL_BACK)
    async with house.open():
        assert house.node(node.uuid).provision_state is P.WAIT_CALL_BACK
        await house.engine.signal(node.uuid, "ramdisk", _call, [])
        await house.until(node.uuid, P.ACTIVE)


async def test_abort_of_a_waiting_deployment(house: House) -> None:
    _ramdisk(house)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.do(node.uuid, Verb.DEPLOY, P.WAIT_CALL_BACK)
    failed = await house.do(node.uuid, Verb.ABORT, P.DEPLOY_FAILED)
    assert "aborted" in (failed.last_error or "")
    assert house.workflows(node.uuid)[0].state is WorkflowState.ABORTED
    assert house.boot.calls == ["prepare deploy", "clean up ramdisk"]
    assert failed.power_state is PowerState.OFF


async def test_delete_takes_the_place_of_a_waiting_deployment(house: House) -> None:
    _ramdisk(house)
    node = await house.add(provision_state=P.AVAILABLE, automated_clean=False)
    await house.do(node.uuid, Verb.DEPLOY, P.WAIT_CALL_BACK)
    await house.do(node.uuid, Verb.DELETE, P.AVAILABLE)
    assert [w.state for w in house.workflows(node.uuid)] == [WorkflowState.ABORTED, WorkflowState.DONE]
