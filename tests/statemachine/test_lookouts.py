"""Steps that look out by themselves while their workflow waits (`Wait.look`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from metald.drivers.base import Done, Outcome, StepContext, Wait
from metald.model import Event, ProvisionState, Verb, WorkflowState
from metald.model.caller import SYSTEM
from tests.support.house import House, settings

P = ProvisionState


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


def waiting(house: House, ready: asyncio.Event, look: Callable[[], Awaitable[None]], timeout: float = 600) -> None:
    """The second deploy step waits until it is ready, and looks out meanwhile."""

    async def second(_ctx: StepContext) -> Outcome:
        return Done() if ready.is_set() else Wait("told", timeout, "it", callback=True, look=look)

    house.deploy.scripts["second"] = second


async def until(house: House, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_what_is_seen_ends_the_wait_without_a_signal(house: House) -> None:
    ready, looked = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        looked.set()
        await ready.wait()

    waiting(house, ready, look)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    await looked.wait()
    await house.until(node.uuid, P.WAIT_CALL_BACK)
    ready.set()
    await house.until(node.uuid, P.ACTIVE)
    assert house.deploy.calls.count("second") == 2
    assert not house.engine._lookouts


async def test_a_look_that_breaks_leaves_the_signal(house: House, caplog: pytest.LogCaptureFixture) -> None:
    ready, looked = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        looked.set()
        raise RuntimeError("a defect")

    waiting(house, ready, look)
    node = await house.add(provision_state=P.AVAILABLE)
    with caplog.at_level(logging.CRITICAL, "metald.statemachine.engine"):
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
        await looked.wait()
        await house.until(node.uuid, P.WAIT_CALL_BACK)
        ready.set()
        await house.engine.signal(node.uuid, "told", lambda _node: {}, [])
        await house.until(node.uuid, P.ACTIVE)


async def test_a_signal_and_an_abort_end_the_look(house: House) -> None:
    cancelled = 0

    async def look() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    waiting(house, asyncio.Event(), look)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    await until(house, lambda: len(house.engine._lookouts) == 1 and house.node(node.uuid).provision_state is P.WAIT_CALL_BACK)
    await house.engine.signal(node.uuid, "told", lambda _node: {}, [])
    await until(house, lambda: cancelled == 1 and len(house.engine._lookouts) == 1)
    await house.until(node.uuid, P.WAIT_CALL_BACK)
    await house.conductor.provision(node.uuid, Verb.ABORT, SYSTEM)
    await house.until(node.uuid, P.DEPLOY_FAILED)
    await until(house, lambda: cancelled == 2)


async def test_the_deadline_is_no_failure_of_what_goes_on(house: House) -> None:
    ready = asyncio.Event()

    async def look() -> None:
        await asyncio.Event().wait()

    waiting(house, ready, look, timeout=0.05)
    node = await house.add(provision_state=P.AVAILABLE)
    await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
    await until(house, lambda: house.deploy.calls.count("second") >= 3)
    assert house.node(node.uuid).provision_state in (P.WAIT_CALL_BACK, P.DEPLOYING)
    ready.set()
    await house.until(node.uuid, P.ACTIVE)


async def test_after_a_restart_the_step_looks_at_once(tmp_path: Path) -> None:
    ready = asyncio.Event()

    async def look() -> None:
        await asyncio.Event().wait()

    async with House(tmp_path, settings(restart_grace=600)).open() as house:
        waiting(house, ready, look)
        node = await house.add(provision_state=P.AVAILABLE)
        await house.conductor.provision(node.uuid, Verb.DEPLOY, SYSTEM)
        await until(house, lambda: any(w.state is WorkflowState.WAITING for w in house.workflows(node.uuid)))
    ready.set()
    again = House(tmp_path, settings(restart_grace=600))
    waiting(again, ready, look)
    async with again.open():
        await again.until(node.uuid, P.ACTIVE)
        kinds = [event.type for event in await again.conductor.timeline(node.uuid) if isinstance(event, Event)]
        assert kinds.count("node.workflow") == 1
