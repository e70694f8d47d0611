"""No needless 409: reads never lock, changes collide only over what is read, and short operations are waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.base import Done, StepContext, Wait
from metald.http.v1.node_schema import PATCHABLE
from metald.model import INTERFACES, WorkflowKind
from metald.statemachine import reads
from tests.support.api import Api, api_settings, serving


class Blocked:
    """A step that lasts until the test lets it end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()

    async def __call__(self, _ctx: StepContext) -> Done:
        self.begun.set()
        await self.end.wait()
        return Done()


async def _deploying(api: Api) -> tuple[str, Blocked]:
    step = Blocked()
    api.house.deploy.scripts["first"] = step
    uuid: str = (await api.node(driver="scripted", name="n"))["uuid"]
    await api.force(uuid, provision_state="available", power_state="power off")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"})).status == 202
    await step.begun.wait()
    return uuid, step


async def test_reads_never_wait(api: Api) -> None:
    uuid, step = await _deploying(api)
    for path in (
        "",
        "/states",
        "/explain",
        "/validate",
        "/management/boot_device",
        "/management/boot_device/supported",
        "/history",
        "/traits",
        "/progress",
    ):
        async with asyncio.timeout(10):
            assert (await api.ask("GET", f"/v1/nodes/{uuid}{path}")).status == 200, path
    assert api.house.node(uuid).reservation is not None
    step.end.set()
    await api.until(uuid, "active")


def test_what_each_workflow_reads() -> None:
    assert set(reads.READS) == set(WorkflowKind)
    assert set(PATCHABLE) >= reads.ANY
    assert {f"{kind}_interface" for kind in INTERFACES} <= reads.ANY
    assert all(name in reads.markdown() for name in reads.ANY)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("extra", {"a": 1}, 200),
        ("description", "x", 200),
        ("owner", "me", 200),
        ("name", "other", 200),
        ("automated_clean", False, 200),
        ("instance_info", {"a": 1}, 409),
        ("driver_info", {"a": 1}, 409),
        ("properties", {"a": 1}, 409),
    ],
)
async def test_changes_collide_over_what_is_read(api: Api, field: str, value: Any, status: int) -> None:
    uuid, step = await _deploying(api)
    answer = await api.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "add", "path": f"/{field}", "value": value}])
    assert answer.status == status, answer.body
    step.end.set()
    node = await api.until(uuid, "active")
    assert (getattr(node, field) == value) is (status == 200)


async def test_a_change_waits_for_a_short_operation(tmp_path: Path) -> None:
    async with serving(tmp_path, api_settings(lock_wait=30)) as api:
        uuid, step = await _deploying(api)
        change = asyncio.create_task(api.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "add", "path": "/driver_info/a", "value": 1}]))
        verb = asyncio.create_task(api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "deleted"}))
        async with asyncio.timeout(10):
            while len(api.house.store.watches) < 1:
                await asyncio.sleep(0.005)
        step.end.set()
        answers = await asyncio.gather(change, verb)
        assert answers[1].status == 202, answers[1].body
        assert answers[0].status in (200, 409)  # the verb may have come first, and tears down
        await api.until(uuid, "available")


async def test_a_long_operation_is_told_of(api: Api) -> None:
    uuid, step = await _deploying(api)
    for method, path, body in (
        ("PUT", "states/provision", {"target": "deleted"}),
        ("PUT", "states/power", {"target": "power off"}),
        ("PUT", "management/boot_device", {"boot_device": "pxe"}),
    ):
        answer = await api.ask(method, f"/v1/nodes/{uuid}/{path}", body)
        assert (answer.status, answer.headers["Retry-After"]) == (409, "2")
        assert f"Node {uuid} is locked by host test, please retry after" in answer.fault
        assert answer.json["metald"]["code"] == "busy"
    step.end.set()
    await api.until(uuid, "active")


async def test_hardware_is_asked_after_the_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = (await api.node(driver="scripted"))["uuid"]
    asked, answered = asyncio.Event(), asyncio.Event()
    power = api.house.conductor._view(uuid).power
    real = power.get_power_state

    async def slow(ctx: Any) -> Any:
        asked.set()
        await answered.wait()
        return await real(ctx)

    monkeypatch.setattr(power, "get_power_state", slow)
    async with asyncio.timeout(10):
        assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "manage"})).status == 202
        await asked.wait()
    assert api.house.node(uuid).provision_state == "verifying"
    answered.set()
    await api.until(uuid, "manageable")


async def test_waiting_for_a_ramdisk_holds_nothing(api: Api) -> None:
    async def wait(_ctx: StepContext) -> Wait:
        return Wait("ramdisk", 600, "the ramdisk", callback=True)

    api.house.deploy.scripts["first"] = wait
    uuid = (await api.node(driver="scripted"))["uuid"]
    await api.force(uuid, provision_state="available", power_state="power off")
    await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"})
    await api.until(uuid, "wait call-back")
    path = f"/v1/nodes/{uuid}"
    assert (await api.ask("PATCH", path, [{"op": "add", "path": "/extra/a", "value": 1}])).status == 200
    refused = await api.ask("PATCH", path, [{"op": "add", "path": "/driver_info/a", "value": 1}])
    assert (refused.status, "state transition is in progress" in refused.fault) == (409, True)
