"""Port groups, templates, runbooks, rules, volumes, shards, history and children over the wire."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from tests.support.api import Api

STEP = {"interface": "deploy", "step": "x", "args": {}, "priority": 10}
ORDERED = {"interface": "deploy", "step": "x", "args": {}, "order": 1}
ACTION = {"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}


async def refused(api: Api, method: str, path: str, rows: list[tuple[Any, int]], version: str = "1.115") -> None:
    for body, status in rows:
        answer = await api.ask(method, path, body, version=version)
        assert answer.status == status, (body, answer.body)


async def test_port_groups_hold_ports_of_their_node(api: Api) -> None:
    node = (await api.node(name="n1"))["uuid"]
    other = (await api.node(name="n2"))["uuid"]
    group = await api.make("portgroups", node_uuid=node, name="bond0", address="52:54:00:00:00:AA")
    uuid = group["uuid"]
    assert (group["mode"], group["standalone_ports_supported"], group["address"]) == ("active-backup", True, "52:54:00:00:00:aa")
    assert group["ports"][0]["href"].endswith(f"/v1/portgroups/{uuid}/ports")
    port = await api.make("ports", node_uuid=node, address="52:54:00:00:00:01", portgroup_uuid=uuid)
    for path in (
        "/v1/portgroups/bond0/ports",
        f"/v1/portgroups/{uuid}/ports/detail",
        f"/v1/ports?portgroup={uuid}",
        "/v1/ports?portgroup=bond0",
    ):
        assert [p["uuid"] for p in (await api.get(path))["ports"]] == [port["uuid"]], path
    for path in (
        "/v1/portgroups",
        "/v1/portgroups/detail",
        "/v1/nodes/n1/portgroups",
        "/v1/nodes/n1/portgroups/detail",
        "/v1/portgroups?node=n1",
    ):
        assert [g["uuid"] for g in (await api.get(path))["portgroups"]] == [uuid], path
    assert set((await api.get("/v1/portgroups"))["portgroups"][0]) == {"uuid", "address", "name", "links"}
    await refused(
        api,
        "POST",
        "/v1/ports",
        [
            ({"node_uuid": other, "address": "52:54:00:00:00:02", "portgroup_uuid": uuid}, 400),
            ({"node_uuid": node, "address": "52:54:00:00:00:02", "portgroup_uuid": str(uuids.uuid4())}, 400),
        ],
    )
    await refused(
        api,
        "POST",
        "/v1/portgroups",
        [
            ({}, 400),
            ({"node_uuid": str(uuids.uuid4())}, 400),
            ({"node_uuid": node, "name": "bond0"}, 409),
            ({"node_uuid": node, "name": "a b"}, 400),
            ({"node_uuid": node, "address": "x"}, 400),
            ({"node_uuid": node, "junk": 1}, 400),
        ],
    )
    patch = "/v1/portgroups/bond0"
    await refused(
        api,
        "PATCH",
        patch,
        [
            ([{"op": "replace", "path": "/mode", "value": "802.3ad"}], 200),
            ([{"op": "remove", "path": "/mode"}], 400),
            ([{"op": "replace", "path": "/uuid", "value": uuid}], 400),
            ([{"op": "replace", "path": "/node_uuid", "value": other}], 400),
            ([{"op": "replace", "path": "/standalone_ports_supported", "value": False}], 409),
            ([{"op": "remove", "path": "/extra"}], 200),
        ],
    )
    assert (await api.ask("DELETE", patch)).status == 400
    assert (await api.ask("DELETE", f"/v1/ports/{port['uuid']}")).status == 204
    assert (await api.ask("DELETE", patch)).status == 204
    for method, path in (("GET", "/v1/portgroups"), ("POST", "/v1/portgroups")):
        assert (await api.ask(method, path, {} if method == "POST" else None, version="1.22")).status == 404
    assert (await api.ask("GET", "/v1/portgroups?node=n1&shard=s")).status == 400


async def test_a_deleted_node_takes_everything_of_its_own_along(api: Api) -> None:
    node = (await api.node())["uuid"]
    await api.make("portgroups", node_uuid=node)
    await api.make("volume/connectors", node_uuid=node, type="iqn", connector_id="iqn.x")
    await api.make("volume/targets", node_uuid=node, volume_type="iscsi", volume_id="v", boot_index=0)
    assert (await api.ask("DELETE", f"/v1/nodes/{node}")).status == 204
    for path in ("portgroups", "volume/connectors", "volume/targets"):
        assert (await api.get(f"/v1/{path}"))[path.split("/")[-1]] == []


async def test_templates_keep_their_steps(api: Api) -> None:
    made = await api.make("deploy_templates", name="CUSTOM_RAID", steps=[{**STEP, "args": {"password": "p", "x": 1}, "priority": "20"}])
    assert made["steps"] == [{"interface": "deploy", "step": "x", "args": {"password": "******", "x": 1}, "priority": 20}]
    assert await api.get("/v1/deploy_templates/CUSTOM_RAID") == made
    assert set((await api.get("/v1/deploy_templates"))["deploy_templates"][0]) == {"uuid", "name", "links"}
    await refused(
        api,
        "POST",
        "/v1/deploy_templates",
        [
            ({"name": "CUSTOM_RAID", "steps": [STEP]}, 409),
            ({"name": "nope", "steps": [STEP]}, 400),
            ({"name": "CUSTOM_A", "steps": []}, 400),
            ({"name": "CUSTOM_A", "steps": [STEP, STEP]}, 400),
            ({"name": "CUSTOM_A", "steps": [{**STEP, "priority": -1}]}, 400),
            ({"name": "CUSTOM_A"}, 400),
            ({"steps": [STEP]}, 400),
        ],
    )
    path = f"/v1/deploy_templates/{made['uuid']}"
    await refused(
        api,
        "PATCH",
        path,
        [
            ([{"op": "replace", "path": "/steps/0/priority", "value": 5}], 200),
            ([{"op": "add", "path": "/steps/-", "value": {**STEP, "step": "y"}}], 200),
            ([{"op": "add", "path": "/steps/-", "value": STEP}], 400),
            ([{"op": "remove", "path": "/steps"}], 400),
            ([{"op": "remove", "path": "/name"}], 400),
            ([{"op": "replace", "path": "/name", "value": "CUSTOM_B"}], 200),
        ],
    )
    assert [s["priority"] for s in (await api.get(path))["steps"]] == [5, 10]
    assert (await api.ask("GET", "/v1/deploy_templates", version="1.54")).status == 404
    assert (await api.ask("POST", "/v1/deploy_templates", {}, version="1.54")).status == 405
    assert (await api.ask("DELETE", path)).status == 204
    assert (await api.ask("DELETE", path)).status == 404


async def test_runbooks_give_their_steps_to_nodes_that_carry_their_trait(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    made = await api.make("runbooks", name="wipe-all", steps=[ORDERED])
    assert (made["public"], made["disable_ramdisk"], made["traits"]) == (False, False, [])
    assert "traits" not in await api.get("/v1/runbooks/wipe-all", "1.111")
    path = "/v1/runbooks/wipe-all/traits"
    assert (await api.ask("PUT", path, {"traits": ["CUSTOM_B"]})).status == 204
    assert (await api.ask("PUT", f"{path}/CUSTOM_A")).status == 204
    assert await api.get(path) == {"traits": ["CUSTOM_A", "CUSTOM_B"]}
    for _ in range(2):
        assert (await api.ask("DELETE", f"{path}/CUSTOM_B")).status == 204
    await api.force(uuid, provision_state="manageable")
    body = {"target": "clean", "runbook": "wipe-all"}
    answer = await api.ask("PUT", "/v1/nodes/n1/states/provision", body)
    assert answer.status == 400
    assert "not been approved" in answer.fault
    assert (await api.ask("PUT", "/v1/nodes/n1/states/provision", body, version="1.91")).status == 406
    assert (
        await api.ask("PUT", "/v1/nodes/n1/states/provision", {**body, "clean_steps": [{"interface": "deploy", "step": "x"}]})
    ).status == 400
    assert (await api.ask("PUT", "/v1/nodes/n1/states/provision", {"target": "clean", "runbook": "nobody"})).status == 400
    await api.force(uuid, traits=["CUSTOM_A"])
    answer = await api.ask("PUT", "/v1/nodes/n1/states/provision", body)
    assert answer.status in (202, 400)
    assert "approved" not in answer.body.decode()
    assert (await api.ask("POST", "/v1/runbooks", {"name": "free", "steps": [ORDERED]}, version="1.111")).status == 400


async def test_rules_are_checked_and_secret_ones_stay_secret(api: Api) -> None:
    made = await api.make("inspection_rules", actions=[ACTION], conditions=[{"op": "!eq", "args": {"values": [1, 2]}}], sensitive=True)
    assert (made["conditions"], made["actions"], made["phase"], made["priority"]) == (None, None, "main", 0)
    assert made["links"][0]["href"].endswith(f"/v1/inspection_rules/{made['uuid']}")
    await refused(
        api,
        "POST",
        "/v1/inspection_rules",
        [
            ({}, 400),
            ({"actions": []}, 400),
            ({"actions": [{"op": "nope", "args": {}}]}, 400),
            ({"actions": [ACTION], "conditions": [{"op": "nope", "args": {}}]}, 400),
            ({"actions": [ACTION], "priority": -1}, 400),
            ({"actions": [ACTION], "priority": 10000}, 400),
            ({"actions": [ACTION], "phase": "other"}, 400),
        ],
    )
    path = f"/v1/inspection_rules/{made['uuid']}"
    await refused(
        api,
        "PATCH",
        path,
        [([{"op": "replace", "path": "/sensitive", "value": False}], 400), ([{"op": "replace", "path": "/priority", "value": 7}], 200)],
    )
    assert (await api.ask("GET", "/v1/inspection_rules", version="1.95")).status == 404
    assert (await api.ask("DELETE", path)).status == 204


async def test_volumes_change_while_their_node_is_off(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    connector = await api.make("volume/connectors", node_uuid=uuid, type="iqn", connector_id="iqn.x")
    target = await api.make(
        "volume/targets", node_uuid=uuid, volume_type="iscsi", volume_id="v", boot_index=0, properties={"auth_password": "p"}
    )
    assert target["properties"] == {"auth_password": "******"}
    assert "key" not in connector
    await refused(
        api,
        "POST",
        "/v1/volume/connectors",
        [
            ({"node_uuid": uuid, "type": "iqn", "connector_id": "iqn.x"}, 409),
            ({"node_uuid": str(uuids.uuid4()), "type": "iqn", "connector_id": "y"}, 400),
            ({"node_uuid": uuid, "type": "iqn"}, 400),
        ],
    )
    await refused(
        api, "POST", "/v1/volume/targets", [({"node_uuid": uuid, "volume_type": "iscsi", "volume_id": "w", "boot_index": 0}, 409)]
    )
    assert set(await api.get("/v1/volume")) == {"connectors", "targets", "links"}
    assert set(await api.get("/v1/nodes/n1/volume")) == {"connectors", "targets", "links"}
    for path in ("/v1/nodes/n1/volume/connectors", "/v1/volume/connectors?node=n1", "/v1/volume/connectors?detail=true"):
        assert [c["uuid"] for c in (await api.get(path))["connectors"]] == [connector["uuid"]], path
    await api.force(uuid, power_state="power on")
    path = f"/v1/volume/targets/{target['uuid']}"
    change = [{"op": "replace", "path": "/boot_index", "value": 3}]
    assert (await api.ask("PATCH", path, change)).status == 400
    assert (await api.ask("DELETE", path)).status == 400
    await api.force(uuid, power_state="power off")
    assert (await api.ask("PATCH", path, change)).json["boot_index"] == 3
    assert (await api.ask("DELETE", path)).status == 204
    assert (await api.ask("GET", "/v1/volume", version="1.31")).status == 404


async def test_shards_children_history_and_events(api: Api) -> None:
    for name, shard in (("a", "s1"), ("b", "s1"), ("c", "s2"), ("d", None)):
        await api.node(name=name, shard=shard)
    assert await api.get("/v1/shards") == {"shards": [{"name": "s1", "count": 2}, {"name": "s2", "count": 1}]}
    child = await api.node(name="child", parent_node="a")
    assert (await api.get("/v1/nodes/a/children"))["children"] == [child["uuid"]]
    uuid = (await api.get("/v1/nodes/b"))["uuid"]
    assert (await api.ask("PUT", "/v1/nodes/b/states/provision", {"target": "manage"})).status == 202
    await api.until(uuid, "manageable")
    history = (await api.get("/v1/nodes/b/history"))["history"]
    assert len(history) >= 2
    assert set(history[0]) == {"uuid", "created_at", "severity", "event", "links"}
    full = await api.get(f"/v1/nodes/b/history/{history[0]['uuid']}")
    assert (full["event_type"], full["state"], full["target_provision_state"]) == ("transition", "verifying", "manageable")
    assert "state" not in (await api.get("/v1/nodes/b/history?detail=true", "1.114"))["history"][0]
    first = await api.get("/v1/nodes/b/history?limit=1")
    assert first["next"].endswith(f"&limit=1&marker={history[0]['uuid']}")
    assert [e["uuid"] for e in (await api.get(f"/v1/nodes/b/history?marker={history[0]['uuid']}"))["history"]] == [
        e["uuid"] for e in history[1:]
    ]
    assert (await api.ask("GET", "/v1/nodes/b/history/nope")).status == 404
    assert (await api.ask("GET", "/v1/nodes/b/history", version="1.77")).status == 404
    assert (await api.ask("GET", "/v1/nodes/b/inventory")).status == 404
    event = {"event": "network.bind_port", "port_id": str(uuids.uuid4()), "mac_address": "52:54:00:00:00:01", "status": "ACTIVE"}
    await refused(
        api,
        "POST",
        "/v1/events",
        [
            ({"events": [event]}, 204),
            ({"events": []}, 400),
            ({}, 400),
            ({"events": [{**event, "event": "x"}]}, 400),
            ({"events": [{**event, "junk": 1}]}, 400),
        ],
    )
    assert (await api.ask("POST", "/v1/events", {"events": [event]}, version="1.53")).status == 404


async def test_templates_add_their_steps_to_deployments_that_ask_for_them(api: Api) -> None:
    uuid = (await api.make("nodes", driver="scripted"))["uuid"]
    step = {"interface": "deploy", "step": "second", "args": {}, "priority": 95}
    await api.make("deploy_templates", name="CUSTOM_EARLY", steps=[step])
    await api.make("deploy_templates", name="CUSTOM_OTHER", steps=[{**step, "priority": 1}])
    await api.force(uuid, provision_state="available", instance_info={"traits": ["CUSTOM_EARLY", "CUSTOM_NONE"]})
    both = {"target": "active", "deploy_steps": [step]}
    answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", both)
    assert answer.status == 400
    assert "template CUSTOM_EARLY" in answer.fault
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"})).status == 202
    await api.until(uuid, "active")
    calls = [call for call in api.house.deploy.calls if call in ("first", "second")]
    assert calls == ["second", "first"]
