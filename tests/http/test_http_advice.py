"""Why a node is not available, and what a verb would do to it."""

from __future__ import annotations

from typing import Any

import pytest

from metald.drivers.base import StepContext, Wait
from metald.errors import DriverError
from metald.model import ProvisionState, Verb
from metald.statemachine import explanation
from metald.statemachine.table import STABLE
from tests.support.api import Api


async def _codes(api: Api, uuid: str) -> dict[str, Any]:
    found = await api.get(f"/v1/nodes/{uuid}/explain")
    for cause in found["causes"]:
        assert cause["code"] in explanation.CODES
        assert cause["text"].endswith((".", "!"))
        assert cause["remedy"]
    return {cause["code"]: cause for cause in found["causes"]}


async def _available(api: Api, **fields: Any) -> str:
    uuid: str = (await api.node(**{"driver": "scripted", "resource_class": "x", **fields}))["uuid"]
    await api.force(uuid, provision_state="available", power_state="power off")
    return uuid


async def test_a_node_that_nothing_is_wrong_with(api: Api) -> None:
    uuid = await _available(api, name="n")
    found = await api.get("/v1/nodes/n/explain", version="1.1")
    assert (found["available"], found["deployable"], found["causes"]) == (True, True, [])
    assert (found["uuid"], found["way_to_available"], found["verbs"]) == (uuid, [], {"deploy": [], "manage": []})
    assert found["summary"] == "Node n is available and can be deployed."


@pytest.mark.parametrize(
    ("fields", "code", "available", "deployable"),
    [
        ({"maintenance": True, "maintenance_reason": "a fan, password=hunter2"}, "maintenance", False, False),
        ({"maintenance": True, "fault": "power failure"}, "fault", False, False),
        ({"retired": True}, "retired", False, True),
        ({"resource_class": None}, "no-resource-class", False, True),
        ({"instance_uuid": "2b1c4b1a-5c1f-4f0e-9d5c-0f5a7f1c0001"}, "claimed", False, True),
        ({"power_state": None}, "power-unknown", False, True),
        ({"target_power_state": "power on"}, "power-changing", False, False),
        ({"power_state": "error"}, "power-error", False, False),
        ({"reservation": "elsewhere"}, "locked", False, False),
        ({"conductor_group": "nowhere"}, "no-conductor", False, False),
    ],
)
async def test_each_reason(api: Api, fields: dict[str, Any], code: str, available: bool, deployable: bool) -> None:
    uuid = await _available(api)
    await api.force(uuid, **fields)
    found = await api.get(f"/v1/nodes/{uuid}/explain")
    assert [cause["code"] for cause in found["causes"]] == [code]
    assert (found["available"], found["deployable"]) == (available, deployable)
    assert "hunter2" not in str(found)
    if code == "maintenance":
        assert found["verbs"]["deploy"][0]["code"] == "maintenance"


@pytest.mark.parametrize(
    ("state", "target", "way"),
    [
        ("enroll", None, ["manage", "provide"]),
        ("verifying", "manageable", ["provide"]),
        ("manageable", None, ["provide"]),
        ("cleaning", "available", []),
        ("clean wait", "manageable", ["provide"]),
        ("clean hold", "available", ["unhold"]),
        ("clean failed", "available", ["manage", "provide"]),
        ("inspect failed", "manageable", ["manage", "provide"]),
        ("deploy failed", "active", ["delete"]),
        ("deploying", "active", ["delete"]),
        ("active", None, ["delete"]),
        ("error", "available", ["delete"]),
        ("rescue", None, ["delete"]),
        ("adopt failed", "active", ["manage", "provide"]),
    ],
)
async def test_the_way_to_available(api: Api, state: str, target: str | None, way: list[str]) -> None:
    uuid = await _available(api)
    await api.force(uuid, provision_state=state, target_provision_state=ProvisionState(target) if target else None)
    found = await api.get(f"/v1/nodes/{uuid}/explain")
    assert (found["way_to_available"], found["available"]) == (way, False)
    assert any(cause["code"] == "state" for cause in found["causes"])


async def test_every_state_has_a_sentence_and_a_way(api: Api) -> None:
    uuid = await _available(api)
    for state in ProvisionState:
        target = None if state in STABLE else ProvisionState.AVAILABLE
        node = await api.force(uuid, provision_state=state, target_provision_state=target)
        causes = list(explanation.of_state(node))
        assert bool(causes) is (state is not ProvisionState.AVAILABLE), state
        assert all(cause.text and cause.remedy for cause in causes)


async def test_what_a_workflow_waits_for(api: Api) -> None:
    async def wait(_ctx: StepContext) -> Wait:
        return Wait("ramdisk", 600, "the ramdisk to call", callback=True)

    api.house.deploy.scripts["first"] = wait
    uuid = await _available(api)
    await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"})
    await api.until(uuid, "wait call-back")
    cause = (await _codes(api, uuid))["waiting"]
    assert "deploy that anonymous asked for waits at step" in cause["text"]
    assert "deploy.first for the ramdisk to call until " in cause["text"]
    assert cause["since"]


async def test_what_failed_last(api: Api) -> None:
    async def fail(_ctx: StepContext) -> Wait:
        raise DriverError("The fan fell off.")

    api.house.deploy.scripts["first"] = fail
    uuid = await _available(api)
    await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"})
    await api.until(uuid, "deploy failed")
    cause = (await _codes(api, uuid))["last-error"]
    assert "The fan fell off." in cause["text"]
    assert cause["remedy"] == DriverError.advice
    history = (await api.get(f"/v1/nodes/{uuid}/history?detail=true"))["history"]
    moves = [entry for entry in history if entry["event_type"] == "transition"]
    assert [entry["state"] for entry in moves] == ["deploying", "deploy failed"]
    assert all(isinstance(entry["duration_seconds"], int) and entry["user"] == "anonymous" for entry in moves)
    assert "by fail after 0." in moves[-1]["event"]
    line = [e for e in (await api.get(f"/v1/nodes/{uuid}/timeline"))["timeline"] if e["type"] == "node.provision"][-1]
    assert (line["data"]["cause"], line["data"]["kind"]) == ("driver", "deploy")
    assert line["data"]["seconds"] >= 0


async def _plan(api: Api, uuid: str, target: str, **body: Any) -> Any:
    answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision?plan=1", {"target": target, **body})
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_plan_does_nothing(api: Api) -> None:
    uuid = await _available(api)
    before = api.house.node(uuid)
    plan = await _plan(api, uuid, "active")
    assert (plan["from"], plan["through"], plan["to"], plan["possible"]) == ("available", "deploying", "active", True)
    assert [(s["interface"], s["step"]) for s in plan["steps"]][:2] == [("deploy", "prepare"), ("deploy", "first")]
    assert all(step["what"] and step["touches"] for step in plan["steps"])
    assert plan["estimate"] == {
        "seconds": 0,
        "complete": False,
        "unknown": ["deploy.prepare", "deploy.first", "deploy.second", "boot.prepare_instance", "power.power_on"],
    }
    assert api.house.node(uuid) is before
    assert api.house.workflows(uuid) == []


async def test_a_plan_is_what_is_done_and_how_long_it_took(api: Api) -> None:
    first, second = await _available(api), await _available(api)
    stranger = (await api.node())["uuid"]
    plan = await _plan(api, first, "active")
    await api.house.do(first, Verb.DEPLOY, ProvisionState.ACTIVE)
    done = [(r.interface, r.step) for r in await api.house.store.journal(node_uuid=first) if r.outcome == "done"]
    assert [(s["interface"], s["step"]) for s in plan["steps"]] == done
    known = await _plan(api, second, "active")
    assert known["estimate"]["complete"]
    assert known["steps"][0]["usual"]["basis"] == "driver and resource class"
    await api.force(second, resource_class="y")
    assert (await _plan(api, second, "active"))["steps"][0]["usual"]["basis"] == "driver"
    await api.force(stranger, provision_state="available")
    assert not (await _plan(api, stranger, "active"))["estimate"]["complete"]


async def test_a_plan_names_what_stands_against_it(api: Api) -> None:
    uuid = await _available(api)
    await api.force(uuid, maintenance=True, reservation="elsewhere")
    plan = await _plan(api, uuid, "active")
    assert (plan["possible"], [b["code"] for b in plan["blockers"]]) == (False, ["busy", "maintenance"])
    await api.force(uuid, maintenance=False, reservation=None)
    plan = await _plan(api, uuid, "rescue", rescue_password="correct horse")
    assert (plan["possible"], plan["through"], plan["to"]) == (False, None, None)
    assert {b["code"] for b in plan["blockers"]} >= {"wrong-state"}
    assert "correct horse" not in str(plan)
    await api.force(uuid, provision_state="manageable")
    plan = await _plan(api, uuid, "clean", clean_steps=[{"interface": "deploy", "step": "nonsense"}])
    assert [b["field"] for b in plan["blockers"]] == ["clean_steps"]
    assert (await _plan(api, uuid, "clean", clean_steps=[{"interface": "deploy", "step": "wipe"}]))["steps"][-1]["step"] == "wipe"


async def test_a_plan_of_a_verb_without_a_workflow(api: Api) -> None:
    uuid = await _available(api)
    plan = await _plan(api, uuid, "manage")
    assert (plan["steps"], plan["through"], plan["to"], plan["possible"]) == ([], None, "manageable", True)


@pytest.mark.parametrize("query", ["plan=0", "plan=no"])
async def test_what_is_no_plan_is_done(api: Api, query: str) -> None:
    uuid = await _available(api)
    answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision?{query}", {"target": "manage"})
    assert answer.status == 202
    await api.until(uuid, "manageable")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision?plan=maybe", {"target": "manage"})).status == 400
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision?plan=1", {"target": "nonsense"})).status == 400
