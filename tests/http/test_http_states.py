"""States, power, provisioning and maintenance over the wire."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from metald.drivers.base import Done, Outcome, StepContext, Wait
from tests.support.api import Answer, Api


async def provision(api: Api, uuid: str, target: str, version: str = "1.115", **more: Any) -> Answer:
    return await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target, **more}, version=version)


async def test_a_node_goes_from_enroll_to_active_and_back(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    for target, state in (("manage", "manageable"), ("provide", "available"), ("active", "active"), ("deleted", "available")):
        answer = await provision(api, "n1", target)
        assert answer.status == 202
        assert answer.body == b""
        assert answer.headers["Location"].endswith("/v1/nodes/n1/states")
        assert "Content-Type" not in answer.headers or answer.headers["Content-Length"] == "0"
        await api.until(uuid, state)
    states = await api.get(f"/v1/nodes/{uuid}/states")
    assert states["provision_state"] == "available"
    assert states["target_provision_state"] is None
    assert "links" not in states


async def test_states_grow_with_versions(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    first = set(await api.get(f"/v1/nodes/{uuid}/states", "1.1"))
    assert len(first) == 7
    assert set(await api.get(f"/v1/nodes/{uuid}/states", "1.12")) - first == {"raid_config", "target_raid_config"}
    assert set(await api.get(f"/v1/nodes/{uuid}/states", "1.75")) - first >= {"boot_mode", "secure_boot"}


async def test_provisioning_that_cannot_be_is_refused(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    step = {"interface": "deploy", "step": "x"}
    rows: list[tuple[str, dict[str, Any], int, str]] = [
        ("enroll", {}, 400, "target"),
        ("enroll", {"target": "bogus"}, 400, "target"),
        ("enroll", {"target": "active"}, 400, "target"),
        ("enroll", {"target": 3}, 400, "target"),
        ("enroll", {"target": "manage", "junk": 1}, 400, "junk"),
        ("cleaning", {"target": "manage"}, 400, "target"),
        ("deleting", {"target": "clean", "clean_steps": [step]}, 400, "target"),
        ("enroll", {"target": "manage", "configdrive": "aGk="}, 400, "configdrive"),
        ("enroll", {"target": "manage", "clean_steps": [step]}, 400, "clean_steps"),
        ("enroll", {"target": "manage", "deploy_steps": [step]}, 400, "deploy_steps"),
        ("enroll", {"target": "manage", "rescue_password": "x"}, 400, "rescue_password"),
        ("enroll", {"target": "manage", "disable_ramdisk": True}, 400, "disable_ramdisk"),
        ("manageable", {"target": "clean"}, 400, "clean_steps"),
        ("manageable", {"target": "clean", "clean_steps": []}, 400, "clean_steps"),
        ("manageable", {"target": "clean", "clean_steps": [{}]}, 400, "clean_steps/0/interface"),
        ("manageable", {"target": "clean", "clean_steps": [{"interface": "deploy"}]}, 400, "clean_steps/0/step"),
        ("manageable", {"target": "clean", "clean_steps": [{"interface": "nope", "step": "x"}]}, 400, "clean_steps/0/interface"),
        ("manageable", {"target": "clean", "clean_steps": [{**step, "junk": 1}]}, 400, "clean_steps/0/junk"),
        ("active", {"target": "service"}, 400, "service_steps"),
        ("active", {"target": "rescue"}, 400, "rescue_password"),
        ("active", {"target": "rescue", "rescue_password": "  "}, 400, "rescue_password"),
        ("available", {"target": "active", "deploy_steps": [step]}, 400, "deploy_steps/0/args"),
        ("available", {"target": "active", "deploy_steps": [{**step, "args": {}, "priority": -1}]}, 400, "deploy_steps/0/priority"),
        ("available", {"target": "active", "configdrive": "not base64!"}, 400, "configdrive"),
        ("available", {"target": "active", "configdrive": {"junk": {}}}, 400, "configdrive/junk"),
        ("available", {"target": "active", "configdrive": 3}, 400, "configdrive"),
    ]
    for state, body, status, field in rows:
        await api.force(uuid, provision_state=state)
        answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", body)
        assert (answer.status, answer.json["metald"]["field"]) == (status, field), (state, body, answer.body)
        assert api.house.node(uuid).reservation is None


async def test_an_impossible_verb_names_action_and_state_as_clients_know_it(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    answer = await provision(api, uuid, "active")
    assert answer.fault.startswith(f'The requested action "active" can not be performed on node "{uuid}" while it is in state "enroll".')
    await api.force(uuid, maintenance=True, provision_state="available")
    answer = await provision(api, uuid, "active")
    assert answer.fault.startswith(f"The provisioning operation can't be performed on node {uuid} because it's in maintenance mode.")
    assert (await provision(api, "nobody", "active")).status == 404


async def test_newer_arguments_need_newer_versions(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    step = {"interface": "deploy", "step": "x", "args": {}, "priority": 1}
    clean = [{"interface": "deploy", "step": "x"}]
    rows: list[tuple[str, dict[str, Any], int, int]] = [
        ("available", {"target": "active", "deploy_steps": [step]}, 68, 406),
        ("available", {"target": "active", "configdrive": {"meta_data": {}}}, 55, 400),
        ("available", {"target": "active", "configdrive": {"vendor_data": {}}}, 58, 400),
        ("active", {"target": "rebuild", "configdrive": "aGk="}, 34, 400),
        ("manageable", {"target": "clean", "clean_steps": clean, "disable_ramdisk": True}, 69, 406),
        ("active", {"target": "service", "service_steps": clean}, 86, 406),
        ("inspect wait", {"target": "abort"}, 40, 406),
        ("wait call-back", {"target": "abort"}, 109, 406),
        ("clean hold", {"target": "unhold"}, 84, 406),
    ]
    for state, body, minor, status in rows:
        await api.force(uuid, provision_state=state)
        answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", body, version=f"1.{minor}")
        assert answer.status == status, (state, body, answer.body)


async def test_a_config_drive_larger_than_other_bodies_is_taken_and_masked(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="available")
    drive = base64.b64encode(bytes(3 << 20)).decode()
    assert (await provision(api, uuid, "active", configdrive=drive)).status == 202
    await api.until(uuid, "active")
    assert drive[:64] not in (await api.ask("GET", f"/v1/nodes/{uuid}")).body.decode()


async def test_a_busy_node_is_locked_for_verbs_but_not_for_notes(api: Api) -> None:
    go = asyncio.Event()

    async def hold(_ctx: StepContext) -> Outcome:
        return Done() if go.is_set() else Wait("go", 60, "the test")

    api.house.deploy.scripts["first"] = hold
    uuid = (await api.make("nodes", driver="scripted"))["uuid"]
    await api.force(uuid, provision_state="available")
    assert (await provision(api, uuid, "active")).status == 202
    answer = await provision(api, uuid, "provide")
    assert answer.status == 409
    assert f"Node {uuid} is locked by host test, please retry after the current operation is completed." in answer.fault
    assert answer.headers["Retry-After"]
    patch = [{"op": "add", "path": "/extra/a", "value": 1}, {"op": "replace", "path": "/description", "value": "d"}]
    assert (await api.ask("PATCH", f"/v1/nodes/{uuid}", patch)).status == 200
    for path in ("/driver_info/a", "/instance_info/a", "/properties/a"):
        answer = await api.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "add", "path": path, "value": 1}])
        assert answer.status == 409
        assert "can not be updated while a state transition is in progress" in answer.fault
    assert (await api.ask("DELETE", f"/v1/nodes/{uuid}")).status == 409
    go.set()
    await api.house.engine.signal(uuid, "go", lambda _node: {}, [])
    await api.until(uuid, "active")
    assert api.house.node(uuid).extra == {"a": 1}


async def test_power_is_set_and_refused(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    answer = await api.ask("PUT", "/v1/nodes/n1/states/power", {"target": "power on"})
    assert answer.status == 202
    assert answer.headers["Location"].endswith("/v1/nodes/n1/states")
    node = await api.until(uuid, "enroll")
    assert node.power_state == "power on"
    rows: list[tuple[dict[str, Any], str, int]] = [
        ({}, "1.115", 400),
        ({"target": "explode"}, "1.115", 400),
        ({"target": 1}, "1.115", 400),
        ({"target": "power on", "timeout": 0}, "1.115", 400),
        ({"target": "power on", "timeout": "x"}, "1.115", 400),
        ({"target": "power on", "junk": 1}, "1.115", 400),
        ({"target": "soft power off"}, "1.26", 406),
        ({"target": "power on", "timeout": 5}, "1.26", 406),
    ]
    for body, version, status in rows:
        assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/power", body, version=version)).status == status, body
    await api.force(uuid, provision_state="cleaning")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/power", {"target": "power off"})).status == 400
    await api.force(uuid, provision_state="active", disable_power_off=True)
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/power", {"target": "power off"})).status == 409
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/power", {"target": "soft rebooting", "timeout": 5})).status == 202
    await api.until(uuid, "active")


async def test_maintenance_is_set_with_a_reason_and_cleared(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    assert (await api.ask("PUT", "/v1/nodes/n1/maintenance", {"reason": "disk"})).status == 202
    node = await api.get("/v1/nodes/n1")
    assert (node["maintenance"], node["maintenance_reason"]) == (True, "disk")
    await api.force(uuid, fault="power failure")
    assert (await api.ask("DELETE", "/v1/nodes/n1/maintenance")).status == 202
    node = await api.get("/v1/nodes/n1")
    assert (node["maintenance"], node["maintenance_reason"], node["fault"]) == (False, None, None)
    assert (await api.ask("PUT", "/v1/nodes/n1/maintenance")).status == 202
    assert (await api.ask("PUT", "/v1/nodes/n1/maintenance", {"junk": 1})).status == 400
    assert (await api.ask("PUT", "/v1/nodes/nobody/maintenance")).status == 404
