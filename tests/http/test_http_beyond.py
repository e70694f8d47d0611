"""What metald takes beyond Ironic: many nodes at once, names wherever a UUID is, whole JSON pointers, links that keep filters."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from metald.model import ProvisionState
from tests.support.api import Api, api_settings, serving


async def test_many_nodes_in_one_request(api: Api) -> None:
    items = [{"driver": "fake-hardware", "name": f"n{i}"} for i in range(1000)]
    batches: list[int] = []
    leave = api.house.store.subscribe(lambda events: batches.append(len(events)))
    answer = await api.ask("POST", "/v1/nodes", items)
    leave()
    assert (answer.status, answer.json["created"], answer.json["failed"]) == (201, 1000, 0)
    assert sum(batches) == 1000
    assert len(batches) == 2, batches
    assert [item["index"] for item in answer.json["nodes"]] == list(range(1000))
    last = answer.json["nodes"][-1]
    assert (await api.get(urlsplit(last["location"]).path))["name"] == last["name"] == "n999"


async def test_bad_items_keep_nothing_else_from_being_made(api: Api) -> None:
    await api.node(name="taken")
    items: list[Any] = [
        {"driver": "fake-hardware", "name": "a"},
        {"driver": "no such driver"},
        {"driver": "fake-hardware", "name": "taken"},
        {"driver": "fake-hardware", "name": "b"},
        {"name": "without a driver"},
        {"driver": "fake-hardware", "name": "b"},
        {"driver": "fake-hardware", "nonsense": 1},
        "not an object",
        None,
        {"driver": "fake-hardware", "chassis_uuid": "0ea0d5ce-0000-4000-8000-000000000000"},
        {"driver": "fake-hardware", "name": "c", "properties": {"cpu_arch": "x86_64"}},
    ]
    answer = await api.ask("POST", "/v1/nodes", items)
    assert (answer.status, answer.json["created"], answer.json["failed"]) == (207, 3, 8)
    assert [item["status"] for item in answer.json["nodes"]] == [201, 400, 409, 201, 400, 409, 400, 400, 400, 400, 201]
    for item in answer.json["nodes"]:
        if item["status"] != 201:
            assert {"code", "field", "remedy", "docs", "message"} == set(item["error"])
            assert item["error"]["message"]
            assert item["error"]["remedy"]
    names = {node["name"] for node in (await api.get("/v1/nodes"))["nodes"]}
    assert names == {"taken", "a", "b", "c"}


async def test_a_defect_in_one_item_leaves_the_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    add = api.fleet.nodes.add

    async def broken(node: Any, caller: Any) -> Any:
        if node.name == "b":
            raise RuntimeError("secret")
        return await add(node, caller)

    monkeypatch.setattr(api.fleet.nodes, "add", broken)
    answer = await api.ask("POST", "/v1/nodes", [{"driver": "fake-hardware", "name": name} for name in "abc"])
    assert [item["status"] for item in answer.json["nodes"]] == [201, 500, 201]
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize(("body", "status"), [([], 400), ([{}] * 1001, 400), ([[]], 207)])
async def test_limits_of_bulk(api: Api, body: Any, status: int) -> None:
    assert (await api.ask("POST", "/v1/nodes", body)).status == status


async def test_arrays_may_be_larger_than_one_node(api: Api) -> None:
    large = [{"driver": "fake-hardware", "extra": {"x": "y" * 200_000}} for _ in range(8)]
    assert (await api.ask("POST", "/v1/nodes", large)).status == 201
    assert (await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "extra": {"x": "y" * 1_100_000}})).status == 413
    assert (await api.ask("POST", "/v1/ports", b"[" + b" " * (1 << 20) + b"]")).status == 413


async def test_the_limit_of_an_array(tmp_path: Any) -> None:
    async with serving(tmp_path, api_settings(max_bulk_body=2000, max_body=1000, max_bulk=3)) as api:
        assert (await api.ask("POST", "/v1/nodes", [{"driver": "fake-hardware", "description": "x" * 1900}])).status == 201
        assert (await api.ask("POST", "/v1/nodes", [{"driver": "fake-hardware", "description": "x" * 2900}])).status == 413
        assert (await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "description": "x" * 1900})).status == 413
        assert (await api.ask("POST", "/v1/nodes", [{"driver": "fake-hardware"}] * 4)).status == 400


async def test_old_versions_make_old_nodes(api: Api) -> None:
    answer = await api.ask("POST", "/v1/nodes", [{"driver": "fake-hardware"}, {"driver": "fake-hardware", "name": "n"}], version="1.2")
    assert [item["status"] for item in answer.json["nodes"]] == [201, 406]
    made = answer.json["nodes"][0]["uuid"]
    assert api.house.node(made).provision_state is ProvisionState.AVAILABLE


async def test_names_wherever_a_uuid_is(api: Api) -> None:
    node = await api.node(name="n1", resource_class="x")
    await api.node(name="n2")
    group = await api.make("portgroups", node_uuid="n1", name="g1")
    assert group["node_uuid"] == node["uuid"]
    port = await api.make("ports", node_uuid="n1", address="52:54:00:00:00:01", portgroup_uuid="g1", name="p1")
    assert (port["node_uuid"], port["portgroup_uuid"]) == (node["uuid"], group["uuid"])
    connector = await api.make("volume/connectors", node_uuid="n1", type="ip", connector_id="1")
    target = await api.make("volume/targets", node_uuid="n1", volume_type="iscsi", volume_id="1", boot_index=0)
    assert connector["node_uuid"] == target["node_uuid"] == node["uuid"]
    for path, key in (
        ("/v1/ports?node=n1", "ports"),
        ("/v1/ports?node_uuid=n1", "ports"),
        ("/v1/ports?portgroup=g1", "ports"),
        ("/v1/portgroups?node=n1", "portgroups"),
        ("/v1/portgroups/g1/ports", "ports"),
        ("/v1/nodes/n1/portgroups", "portgroups"),
        ("/v1/nodes/n1/volume/connectors", "connectors"),
        ("/v1/volume/targets?node=n1", "targets"),
    ):
        assert len((await api.get(path))[key]) == 1, path
    assert (await api.get("/v1/ports?node_uuid=n2"))["ports"] == []
    moved = await api.ask("PATCH", "/v1/ports/p1", [{"op": "replace", "path": "/portgroup_uuid", "value": None}])
    moved = await api.ask("PATCH", "/v1/ports/p1", [{"op": "replace", "path": "/node_uuid", "value": "n2"}])
    assert moved.status == 200, moved.body
    await api.force(node["uuid"], provision_state="available", power_state="power off")
    claim = await api.make("allocations", resource_class="x", candidate_nodes=["n1"])
    assert claim["candidate_nodes"] == [node["uuid"]]
    assert (await api.get("/v1/nodes/n1/allocation"))["uuid"] == claim["uuid"]
    for what, fields in (("ports", {"address": "52:54:00:00:00:02"}), ("portgroups", {})):
        answer = await api.ask("POST", f"/v1/{what}", {**fields, "node_uuid": "nobody"})
        assert (answer.status, answer.json["metald"]["field"]) == (400, "node_uuid")


@pytest.mark.parametrize(
    ("path", "op", "value", "extra"),
    [
        ("/extra/a~1b", "add", 1, {"a/b": 1, "list": [1, 2], "~": 0}),
        ("/extra/~0", "replace", 1, {"list": [1, 2], "~": 1}),
        ("/extra/~01", "add", 1, {"~1": 1, "list": [1, 2], "~": 0}),
        ("/extra/list/0", "replace", 9, {"list": [9, 2], "~": 0}),
        ("/extra/list/0", "add", 9, {"list": [9, 1, 2], "~": 0}),
        ("/extra/list/2", "add", 9, {"list": [1, 2, 9], "~": 0}),
        ("/extra/list/-", "add", 9, {"list": [1, 2, 9], "~": 0}),
        ("/extra/list/1", "remove", None, {"list": [1], "~": 0}),
        ("/extra/", "add", 1, {"": 1, "list": [1, 2], "~": 0}),
        ("/extra/a.b:c d", "add", 1, {"a.b:c d": 1, "list": [1, 2], "~": 0}),
        ("/extra/list/-", "remove", None, None),
        ("/extra/list/-", "replace", 1, None),
        ("/extra/list/01", "replace", 1, None),
        ("/extra/list/3", "add", 1, None),
        ("/extra/nobody", "replace", 1, None),
        ("/extra/nobody/x", "add", 1, None),
        ("//extra", "add", 1, None),
        ("/", "add", 1, None),
        ("extra", "add", 1, None),
    ],
)
async def test_json_pointers(api: Api, path: str, op: str, value: Any, extra: Any) -> None:
    node = await api.node(extra={"list": [1, 2], "~": 0})
    answer = await api.ask("PATCH", f"/v1/nodes/{node['uuid']}", [{"op": op, "path": path, "value": value}])
    assert answer.status == (200 if extra is not None else 400), answer.body
    if extra is not None:
        assert answer.json["extra"] == extra


@pytest.mark.parametrize(
    "query",
    [
        "maintenance=True&driver=fake-hardware",
        "provision_state=enroll",
        "resource_class=a%26b",
        "fields=uuid,name",
        "detail=True",
        "sort_key=name&sort_dir=desc",
        "shard=s1,s2",
        "description_contains=x%20y",
        "associated=False&conductor_group=",
    ],
)
async def test_next_keeps_what_was_asked(api: Api, query: str) -> None:
    for i in range(5):
        made = await api.node(name=f"n{i}", shard="s1", resource_class="a&b", description="has x y in it")
        await api.force(made["uuid"], maintenance=True)
    await api.node(name="other", shard="s3")
    seen: list[str] = []
    path = f"/v1/nodes?{query}&limit=2"
    while True:
        page = await api.get(path)
        seen += [node["name"] for node in page["nodes"]]
        if "next" not in page:
            break
        link = urlsplit(page["next"])
        path = f"{link.path}?{link.query}"
    wanted = await api.get(f"/v1/nodes?{query}")
    assert seen == [node["name"] for node in wanted["nodes"]]
    assert len(seen) >= 5


@pytest.mark.parametrize("path", ["ports", "portgroups", "volume/connectors", "nodes/n/ports", "chassis", "nodes/n/history"])
async def test_next_of_other_lists(api: Api, path: str) -> None:
    await api.node(name="n")
    for i in range(3):
        await api.make("ports", node_uuid="n", address=f"52:54:00:00:00:0{i}")
        await api.make("portgroups", node_uuid="n")
        await api.make("chassis")
        await api.make("volume/connectors", node_uuid="n", type="ip", connector_id=str(i))
        await api.ask("PUT", "/v1/nodes/n/maintenance", {})
    key = path.rsplit("/", 1)[-1]
    filtered = "node=n&" if path in ("ports", "portgroups", "volume/connectors") else ""
    seen, at = 0, f"/v1/{path}?{filtered}detail=true&sort_dir=desc&limit=1"
    while True:
        page = await api.get(at)
        seen += len(page[key])
        if "next" not in page:
            break
        link = urlsplit(page["next"])
        assert ("node=n" in link.query) is bool(filtered)
        assert "detail=True" in link.query
        assert "sort_dir=desc" in link.query
        at = f"{link.path}?{link.query}"
    assert seen == 3, json.dumps(page)


async def _claimed(api: Api) -> tuple[str, str]:
    node = await api.node(driver="scripted", resource_class="x")
    await api.force(node["uuid"], provision_state="available", power_state="power off")
    claim = await api.make("allocations", resource_class="x", name="mine")
    assert (await api.get("/v1/allocations/mine"))["node_uuid"] == node["uuid"]
    return node["uuid"], claim["uuid"]


async def test_a_claim_ends_with_its_instance(api: Api) -> None:
    node, claim = await _claimed(api)
    told: list[str] = []
    leave = api.house.store.subscribe(lambda events: told.extend(event.type for event in events))
    await api.ask("PUT", f"/v1/nodes/{node}/states/provision", {"target": "active"})
    await api.until(node, "active")
    await api.ask("PUT", f"/v1/nodes/{node}/states/provision", {"target": "deleted"})
    await api.until(node, "available")
    leave()
    assert told.count("allocation.delete") == 1
    assert (await api.ask("GET", f"/v1/allocations/{claim}")).status == 404
    assert (await api.get(f"/v1/nodes/{node}"))["allocation_uuid"] is None


async def test_a_claim_ends_when_its_instance_is_taken_away(api: Api) -> None:
    node, claim = await _claimed(api)
    await api.ask("PATCH", f"/v1/nodes/{node}", [{"op": "remove", "path": "/instance_uuid"}])
    assert (await api.get("/v1/allocations"))["allocations"] == []
    assert (await api.ask("GET", f"/v1/allocations/{claim}")).status == 404


async def test_a_claim_ends_with_its_node(api: Api) -> None:
    node, claim = await _claimed(api)
    await api.force(node, maintenance=True)
    assert (await api.ask("DELETE", f"/v1/nodes/{node}")).status == 204
    assert (await api.ask("GET", f"/v1/allocations/{claim}")).status == 404
