"""Who may do what over HTTP: 403 and 404, lists, reduced forms, whom new things belong to; against facts of Ironic 39.

`rbac39.json` holds what a real Ironic 39 decides, route by route, for callers of the system, of the project that owns a node,
of the one that leases it, and of a stranger: the request passes the policy, is refused (403), or is told that there is no such thing (404).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import pytest_asyncio

from metald.errors import MetaldError
from metald.http import door
from metald.http.call import Call
from metald.http.routes import ROUTES
from metald.policy import RULES
from tests.support.api import Answer, Api, api_settings, serving

OWNER, LESSEE, OTHER = "70e5e25a2ca24cb1", "f11853c7fa9c4db3", "ae64129eb1884662"
PROJECTS = {"owner": OWNER, "lessee": LESSEE, "third": OTHER}
ROLES = ("admin", "manager", "member", "reader", "service")
CLAIMED = {name: f"{number}0000000-0000-4000-8000-000000000000" for number, name in enumerate(("owned", "leased", "foreign"))}
FACTS = json.loads((Path(__file__).parent / "rbac39.json").read_text())


def basic(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:x".encode()).decode()}


def write_users(folder: Path) -> dict[str, str]:
    """The files of users: each role in each scope; and what the settings say of them."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(rounds=4)).decode()
    names = ["root", "unknown", *(f"{scope}-{role}" for scope in ("system", *PROJECTS) for role in ROLES)]
    (folder / "htpasswd").write_text("".join(f"{name}:{hashed}\n" for name in names))
    tables = ['[root]\nroles = ["admin"]\nsystem = true\n']
    for scope in ("system", *PROJECTS):
        where = "system = true" if scope == "system" else f'project = "{PROJECTS[scope]}"'
        tables += [f'[{scope}-{role}]\nroles = ["{role}"]\n{where}\n' for role in ROLES]
    (folder / "users.toml").write_text("\n".join(tables))
    return {"auth": "http_basic", "htpasswd": str(folder / "htpasswd"), "users": str(folder / "users.toml")}


class World:
    """An API with a node of the owner's, one that is leased, one of nobody, and things of theirs."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.ids: dict[str, str] = {}

    async def ask(self, user: str, method: str, path: str, body: Any = None, version: str = "1.115") -> Answer:
        return await self.api.ask(method, path.format(**self.ids), body, headers=basic(user), version=version)

    async def make(self, what: str, **fields: Any) -> Any:
        answer = await self.ask("root", "POST", f"/v1/{what}", fields)
        assert answer.status == 201, answer.body
        return answer.json

    async def fill(self) -> None:
        wanted = {"owned": {"owner": OWNER}, "leased": {"owner": OWNER, "lessee": LESSEE}, "foreign": {}}
        for number, (name, fields) in enumerate(wanted.items()):
            node = await self.make("nodes", name=name, driver="fake-hardware", resource_class="x", **fields)
            uuid = self.ids[name] = node["uuid"]
            self.ids[f"{name}_port"] = (await self.make("ports", node_uuid=uuid, address=f"52:54:00:00:00:0{number}"))["uuid"]
            self.ids[f"{name}_group"] = (await self.make("portgroups", node_uuid=uuid, name=f"g-{name}"))["uuid"]
            target = {"node_uuid": uuid, "volume_type": "iscsi", "boot_index": 0, "volume_id": name, "properties": {"iqn": "a"}}
            self.ids[f"{name}_target"] = (await self.make("volume/targets", **target))["uuid"]
            connector = {"node_uuid": uuid, "type": "iqn", "connector_id": f"iqn.{name}"}
            self.ids[f"{name}_connector"] = (await self.make("volume/connectors", **connector))["uuid"]
            owner = {"owned": OWNER, "leased": LESSEE}.get(name)
            await self.api.force(uuid, provision_state="active", power_state="power on", instance_uuid=CLAIMED[name])
            claim = await self.make("allocations", name=f"a-{name}", node=uuid, owner=owner)
            self.ids[f"{name}_claim"] = claim["uuid"]
        steps = [{"interface": "deploy", "step": "deploy", "args": {}, "order": 1}]
        self.ids["runbook"] = (await self.make("runbooks", name="CUSTOM_OWN", steps=steps, owner=OWNER))["uuid"]
        self.ids |= {"bios_setting": "b", "conductor": "test", "chassis": (await self.make("chassis"))["uuid"]}
        numbered = [{**step, "priority": 1} for step in steps]
        for step in numbered:
            del step["order"]
        self.ids["template"] = (await self.make("deploy_templates", name="CUSTOM_T", steps=numbered))["uuid"]
        self.ids["public_runbook"] = (await self.make("runbooks", name="CUSTOM_ALL", steps=steps, public=True))["uuid"]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path / "state", api_settings(**write_users(tmp_path))) as api:
        found = World(api)
        await found.fill()
        yield found


class Passed(MetaldError):
    """The policy let a request through; its handler is not run."""

    status = 418


_STEPS = [{"interface": "raid", "step": "noop", "args": {}, "order": 0}]
_BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/nodes"): {"driver": "fake-hardware"},
    ("POST", "/v1/chassis"): {},
    ("POST", "/v1/allocations"): {"resource_class": "x"},
    ("POST", "/v1/runbooks"): {"name": "CUSTOM_N", "steps": _STEPS},
    ("POST", "/v1/deploy_templates"): {"name": "CUSTOM_N", "steps": [{"interface": "raid", "step": "noop", "args": {}, "priority": 0}]},
    ("POST", "/v1/ports"): {"address": "52:54:00:00:00:99"},
    ("POST", "/v1/portgroups"): {},
    ("POST", "/v1/volume/targets"): {"volume_type": "iscsi", "boot_index": 2, "volume_id": "v"},
    ("POST", "/v1/volume/connectors"): {"type": "ip", "connector_id": "192.0.2.1"},
    ("POST", "vifs"): {"id": "v1"},
    ("PUT", "maintenance"): {},
    ("PUT", "boot_device"): {"boot_device": "pxe"},
    ("PUT", "inject_nmi"): {},
    ("PUT", "power"): {"target": "power on"},
    ("PUT", "boot_mode"): {"target": "uefi"},
    ("PUT", "secure_boot"): {"target": True},
    ("PUT", "raid"): {},
    ("PUT", "console"): {"enabled": True},
    ("PUT", "traits"): {"traits": ["CUSTOM_T"]},
    ("PUT", "led@system"): {"state": "ON"},
}


def body_for(world: World, method: str, path: str, fields: list[str]) -> Any:
    if method == "PATCH":
        return [{"op": "replace", "path": f"/{name}", "value": "x"} for name in fields]
    if path.endswith("states/provision"):
        return {"target": fields[0]}
    found = _BODIES.get((method, path), _BODIES.get((method, path.rsplit("/", 1)[-1])))
    return found if method == "PUT" or not fields else {**found, "node_uuid": world.ids[fields[0]]}


async def test_every_route_decides_as_ironic_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = door.check

    def check(call: Call) -> None:
        asked(call)
        raise Passed("passed")

    monkeypatch.setattr(door, "check", check)
    wrong = []
    for method, path, fields, verdicts in FACTS:
        body = body_for(world, method, path, fields)
        for user, verdict in verdicts.items():
            answer = await world.ask(user, method, path, body)
            found = "pass" if answer.status == Passed.status else str(answer.status)
            if found != verdict:
                wrong.append((method, path, fields, user, f"{verdict} expected, {found}", answer.body[:150]))
    assert not wrong, "\n".join(map(str, wrong))


def test_every_route_has_a_rule_or_is_public() -> None:
    known = {rule.name for rule in RULES}
    assert [(r.method, r.path, r.policy) for r in ROUTES if not r.public and r.policy not in known] == []
    used = {route.policy for route in ROUTES}
    assert "baremetal:node:set_provision_state" in used


async def listed(world: World, user: str, path: str, key: str) -> list[str]:
    answer = await world.ask(user, "GET", path)
    assert answer.status == 200, (path, answer.body)
    return sorted(item["uuid"] for item in answer.json[key])


@pytest.mark.parametrize(
    ("path", "key", "suffix"),
    [
        ("/v1/nodes", "nodes", ""),
        ("/v1/nodes/detail", "nodes", ""),
        ("/v1/nodes?sort_key=name&sort_dir=desc", "nodes", ""),
        ("/v1/ports", "ports", "_port"),
        ("/v1/ports/detail", "ports", "_port"),
        ("/v1/portgroups", "portgroups", "_group"),
        ("/v1/volume/targets", "targets", "_target"),
        ("/v1/volume/connectors", "connectors", "_connector"),
    ],
)
async def test_lists_show_what_the_project_has(world: World, path: str, key: str, suffix: str) -> None:
    owned, leased, foreign = (world.ids[f"{name}{suffix}"] for name in ("owned", "leased", "foreign"))
    assert await listed(world, "system-reader", path, key) == sorted([owned, leased, foreign])
    assert await listed(world, "system-service", path, key) == sorted([owned, leased, foreign])
    assert await listed(world, "owner-reader", path, key) == sorted([owned, leased])
    assert await listed(world, "owner-service", path, key) == sorted([owned, leased])
    assert await listed(world, "lessee-reader", path, key) == [leased]
    assert await listed(world, "third-admin", path, key) == []
    assert (await world.ask("unknown", "GET", path)).status == 403


async def test_lists_of_claims_and_runbooks(world: World) -> None:
    ids = world.ids
    assert await listed(world, "system-reader", "/v1/allocations", "allocations") == sorted(
        ids[f"{n}_claim"] for n in ("owned", "leased", "foreign")
    )
    assert await listed(world, "owner-reader", "/v1/allocations", "allocations") == [ids["owned_claim"]]
    assert await listed(world, "third-admin", "/v1/allocations", "allocations") == []
    assert (await world.ask("owner-reader", "GET", f"/v1/allocations?owner={LESSEE}")).status == 403
    assert (await world.ask("owner-reader", "GET", f"/v1/allocations?owner={OWNER}")).status == 200
    assert await listed(world, "owner-reader", "/v1/runbooks", "runbooks") == sorted([ids["runbook"], ids["public_runbook"]])
    assert await listed(world, "third-reader", "/v1/runbooks", "runbooks") == [ids["public_runbook"]]
    assert (await world.ask("third-reader", "GET", "/v1/runbooks/{runbook}")).status == 403
    assert (await world.ask("third-reader", "GET", "/v1/runbooks/{public_runbook}")).status == 200


async def test_pages_are_full_of_what_is_seen(world: World) -> None:
    for number in range(5):
        await world.make("nodes", driver="fake-hardware", name=f"more{number}", owner=OWNER if number % 2 else None)
    found: list[str] = []
    path = "/v1/nodes?limit=2"
    while path:
        page = (await world.ask("owner-reader", "GET", path)).json
        found += [node["name"] for node in page["nodes"]]
        path = page["next"].partition("/v1/")[2] if "next" in page else ""
        path = f"/v1/{path}" if path else ""
    assert found == ["owned", "leased", "more1", "more3"]
    assert (await world.ask("owner-reader", "GET", f"/v1/nodes?marker={world.ids['foreign']}")).status == 404


async def test_what_is_not_seen_answers_like_what_is_not_there(world: World) -> None:
    missing = "11111111-2222-4333-8444-555555555555"
    for template in (
        "/v1/nodes/{}",
        "/v1/nodes/{}/states",
        "/v1/nodes/{}/ports",
        "/v1/nodes/{}/history",
        "/v1/nodes/{}/timeline",
        "/v1/nodes/{}/volume/targets",
        "/v1/ports?node={}",
        "/v1/portgroups?node={}",
        "/v1/nodes/validate?node={}",
        "/v1/allocations?node={}",
    ):
        seen = await world.ask("third-admin", "GET", template.format(world.ids["foreign"]))
        never = await world.ask("third-admin", "GET", template.format(missing))
        assert seen.status == never.status, template
        assert seen.status in (400, 404), template
        assert seen.fault.replace(world.ids["foreign"], missing) == never.fault
    for node in (world.ids["foreign"], missing):
        assert (await world.ask("third-admin", "GET", f"/v1/nodes?parent_node={node}")).json == {"nodes": []}
    for kind, name in (("ports", "port"), ("portgroups", "group"), ("volume/targets", "target"), ("volume/connectors", "connector")):
        for method, body in (("GET", None), ("DELETE", None), ("PATCH", [])):
            seen = await world.ask("third-admin", method, f"/v1/{kind}/{world.ids[f'foreign_{name}']}", body)
            never = await world.ask("third-admin", method, f"/v1/{kind}/{missing}", body)
            assert (seen.status, never.status) == (404, 404), (kind, method)
            assert seen.fault.replace(world.ids[f"foreign_{name}"], missing) == never.fault
    assert (await world.ask("owner-reader", "GET", "/v1/nodes/foreign")).status == 404
    assert (await world.ask("owner-reader", "GET", "/v1/nodes/owned")).status == 200


async def test_refusals_name_the_rule(world: World) -> None:
    answer = await world.ask("owner-reader", "PUT", "/v1/nodes/{owned}/states/power", {"target": "power on"})
    assert answer.status == 403
    assert answer.fault.startswith("Access was denied to the following resource: baremetal:node:set_power_state")
    assert "WWW-Authenticate" not in answer.headers


async def test_who_may_not_is_told_so_before_the_version_is_looked_at(world: World) -> None:
    for state, target in (("boot_mode", "uefi"), ("secure_boot", True)):
        path = f"/v1/nodes/{{owned}}/states/{state}"
        for user, status in (("system-reader", 403), ("owner-reader", 403), ("third-admin", 404), ("root", 404)):
            assert (await world.ask(user, "PUT", path, {"target": target}, version="1.75")).status == status, (user, state)


async def test_lessees_see_a_reduced_form(world: World) -> None:
    await world.api.force(world.ids["leased"], last_error="bmc 192.0.2.7 is dead", driver_info={"ipmi_address": "192.0.2.7"})
    for path in ("/v1/nodes/{leased}", "/v1/nodes/detail", "/v1/nodes?fields=uuid,last_error,reservation,driver_info,driver_internal_info"):
        for user, whole in (("lessee-admin", False), ("owner-reader", True), ("system-reader", True), ("lessee-admin", False)):
            text = (await world.ask(user, "GET", path)).body
            assert (b"192.0.2.7" in text) is whole, (path, user)
            assert (b"edacted" in text) is not whole
    states = await world.ask("lessee-reader", "GET", "/v1/nodes/{leased}/states")
    assert b"192.0.2.7" not in states.body
    for user, status in (("lessee-admin", 403), ("owner-reader", 200)):
        assert (await world.ask(user, "GET", "/v1/nodes/{leased}/history")).status == status


async def test_targets_tell_their_properties_to_few(world: World) -> None:
    for user, shown in (("owner-reader", False), ("owner-admin", True), ("lessee-admin", True), ("system-reader", True)):
        for path in ("/v1/volume/targets/{leased_target}", "/v1/nodes/{leased}/volume/targets?detail=true"):
            text = (await world.ask(user, "GET", path)).body
            assert (b'"iqn"' in text) is shown, (user, path)


async def test_new_nodes_belong_to_the_project(world: World) -> None:
    node = (await world.ask("owner-admin", "POST", "/v1/nodes", {"driver": "fake-hardware"})).json
    assert node["owner"] == OWNER
    old = await world.ask("owner-admin", "POST", "/v1/nodes", {"driver": "fake-hardware"}, version="1.11")
    assert old.status == 201
    assert (await world.ask("root", "GET", f"/v1/nodes/{old.json['uuid']}")).json["owner"] == OWNER
    assert (await world.ask("owner-admin", "POST", "/v1/nodes", {"driver": "fake-hardware", "owner": OTHER})).status == 400
    assert (await world.ask("system-admin", "POST", "/v1/nodes", {"driver": "fake-hardware", "owner": OTHER})).json["owner"] == OTHER
    assert (await world.ask("owner-manager", "POST", "/v1/nodes", {"driver": "fake-hardware"})).status == 403
    for parent, status in (("foreign", 400), ("owned", 201)):
        child = {"driver": "fake-hardware", "parent_node": world.ids[parent]}
        assert (await world.ask("owner-admin", "POST", "/v1/nodes", child)).status == status
    assert (await world.ask("lessee-admin", "POST", "/v1/nodes", {**child, "parent_node": world.ids["leased"]})).status == 400
    assert (await world.ask("owner-admin", "DELETE", f"/v1/nodes/{node['uuid']}")).status == 204


async def test_children_are_listed_to_whom_they_belong(world: World) -> None:
    for name, owner in (("mine", OWNER), ("others", None)):
        node = await world.make("nodes", driver="fake-hardware", name=name, owner=owner, parent_node=world.ids["owned"])
        world.ids[name] = node["uuid"]
    assert (await world.ask("owner-reader", "GET", "/v1/nodes/{owned}/children")).json["children"] == [world.ids["mine"]]
    assert len((await world.ask("system-reader", "GET", "/v1/nodes/{owned}/children")).json["children"]) == 2


async def test_claims_belong_to_the_project(world: World) -> None:
    claim = await world.ask("third-member", "POST", "/v1/allocations", {"resource_class": "x", "name": "c"})
    assert claim.status == 201
    assert claim.json["owner"] == OTHER
    assert (await world.ask("third-member", "POST", "/v1/allocations", {"resource_class": "x", "owner": OWNER})).status == 403
    assert (await world.ask("third-reader", "POST", "/v1/allocations", {"resource_class": "x"})).status == 403
    for wanted in ({"node": world.ids["owned"]}, {"candidate_nodes": [world.ids["owned"]]}):
        assert (await world.ask("third-member", "POST", "/v1/allocations", {"resource_class": "x", **wanted})).status == 400
    assert (await world.ask("system-member", "POST", "/v1/allocations", {"resource_class": "x", "name": "d", "owner": OWNER})).status == 201


async def test_runbooks_of_projects(world: World) -> None:
    body = {"name": "CUSTOM_MADE", "steps": _STEPS}
    assert (await world.ask("owner-manager", "POST", "/v1/runbooks", {**body, "public": True})).status == 400
    assert (await world.ask("owner-manager", "POST", "/v1/runbooks", {**body, "owner": OTHER})).status == 400
    assert (await world.ask("owner-manager", "POST", "/v1/runbooks", body)).json["owner"] == OWNER
    assert (await world.ask("owner-member", "POST", "/v1/runbooks", {**body, "name": "CUSTOM_TWO"})).status == 403
    await world.api.force(world.ids["leased"], provision_state="manageable", traits=["CUSTOM_OWN"])
    clean = {"target": "clean", "runbook": world.ids["runbook"]}
    assert (await world.ask("lessee-admin", "PUT", "/v1/nodes/{leased}/states/provision", clean)).status == 403


async def test_things_stay_with_their_owner(world: World) -> None:
    for kind, name in (("ports", "port"), ("portgroups", "group"), ("volume/targets", "target"), ("volume/connectors", "connector")):
        patch = [{"op": "replace", "path": "/node_uuid", "value": world.ids["foreign"]}]
        answer = await world.ask("owner-admin", "PATCH", f"/v1/{kind}/{world.ids[f'owned_{name}']}", patch)
        assert answer.status == 400
        assert "Requested value was invalid" in answer.fault


async def test_the_owner_of_an_active_node_stays(world: World) -> None:
    patch = [{"op": "replace", "path": "/owner", "value": OTHER}]
    await world.api.force(world.ids["foreign"], instance_uuid=None, allocation_uuid=None)
    assert (await world.ask("system-member", "PATCH", "/v1/nodes/{foreign}", patch)).status == 409
    await world.api.force(world.ids["foreign"], provision_state="manageable")
    assert (await world.ask("system-member", "PATCH", "/v1/nodes/{foreign}", patch)).status == 200


async def test_who_is_in_no_table_may_do_nothing_but_what_is_public(world: World) -> None:
    for path in ("/v1/nodes", "/v1/drivers", "/v1/chassis", "/v1/conductors", "/v1/shards", "/v1/events", "/v1/runbooks"):
        assert (await world.ask("unknown", "GET", path)).status == 403, path
    assert (await world.ask("unknown", "GET", "/v1/nodes/{owned}")).status == 404
    assert (await world.ask("unknown", "GET", "/v1")).status == 200
    assert (await world.ask("unknown", "GET", "/v1/lookup?node_uuid={owned}")).status != 403


async def test_no_filter_of_a_list_shows_more(world: World) -> None:
    chassis = await world.make("chassis")
    for name in ("owned", "foreign"):
        await world.api.force(world.ids[name], chassis_uuid=chassis["uuid"], instance_uuid=CLAIMED[name], shard="s")
    child = await world.make("nodes", driver="fake-hardware", parent_node=world.ids["owned"])
    for query in (
        f"instance_uuid={CLAIMED['foreign']}",
        f"chassis_uuid={chassis['uuid']}",
        "shard=s",
        f"parent_node={world.ids['owned']}",
        "include_children=true",
        "driver=fake-hardware",
    ):
        assert not {world.ids["foreign"], child["uuid"]} & set(await listed(world, "owner-reader", f"/v1/nodes?{query}", "nodes")), query
    assert await listed(world, "owner-reader", f"/v1/nodes?instance_uuid={CLAIMED['owned']}", "nodes") == [world.ids["owned"]]
    for path in ("/v1/ports?address=52:54:00:00:00:02", "/v1/ports?shard=s", "/v1/ports?description_contains="):
        assert world.ids["foreign_port"] not in await listed(world, "owner-reader", path, "ports")
    assert (await world.ask("owner-reader", "GET", "/v1/ports?portgroup={foreign_group}")).status == 404
    assert (await world.ask("owner-reader", "GET", "/v1/portgroups/{foreign_group}/ports")).status == 404
    of_chassis = f"/v1/chassis/{chassis['uuid']}/nodes"
    assert await listed(world, "owner-reader", of_chassis, "nodes") == [world.ids["owned"]]


async def test_entity_tags_do_not_outlive_a_sale(world: World) -> None:
    for path in ("/v1/ports", "/v1/nodes", "/v1/nodes/{leased}", "/v1/volume/targets"):
        first = await world.ask("lessee-reader", "GET", path)
        tag = first.headers.get("ETag")
        if tag is None:
            continue
        headers = {**basic("lessee-reader"), "If-None-Match": tag}
        assert (await world.api.ask("GET", path.format(**world.ids), headers=headers)).status == 304
        await world.api.force(world.ids["leased"], lessee=None)
        assert (await world.api.ask("GET", path.format(**world.ids), headers=headers)).status != 304
        await world.api.force(world.ids["leased"], lessee=LESSEE)


async def test_events_of_what_a_project_owns(world: World) -> None:
    found = (await world.ask("owner-reader", "GET", "/v1/events")).json["events"]
    assert {event["node_uuid"] for event in found} == {world.ids["owned"], world.ids["leased"]}
    assert (await world.ask("lessee-reader", "GET", "/v1/events")).json["events"] == []
    assert len((await world.ask("system-reader", "GET", "/v1/events")).json["events"]) > len(found)


async def test_files_of_users_are_read_again(world: World, tmp_path: Path) -> None:
    users = tmp_path / "users.toml"
    good = users.read_text()
    assert (await world.ask("unknown", "GET", "/v1/nodes")).status == 403
    users.write_text(good + '\n[unknown]\nroles = ["reader"]\nsystem = true\n')
    assert (await world.ask("unknown", "GET", "/v1/nodes")).status == 200
    for broken in ("[x", "[x]\nroles = 1\n", '[x]\nroles = ["reader"]\n', '[x]\nsystem = true\nproject = "p"\n', "[x]\nsuper = true\n"):
        users.write_text(broken)
        assert (await world.ask("root", "GET", "/v1/nodes")).status == 401, broken
    users.write_text(good)
    assert (await world.ask("root", "GET", "/v1/nodes")).status == 200
    users.unlink()
    assert (await world.ask("root", "GET", "/v1/nodes")).status == 401


async def test_the_administrator_of_a_project_may_be_kept_from_its_nodes(tmp_path: Path) -> None:
    settings = api_settings(**write_users(tmp_path), project_admin_can_manage_own_nodes=False)
    async with serving(tmp_path / "state", settings) as api:
        world = World(api)
        await world.fill()
        for user in ("owner-admin", "owner-service"):
            assert (await world.ask(user, "POST", "/v1/nodes", {"driver": "fake-hardware"})).status == 403
            assert (await world.ask(user, "DELETE", "/v1/nodes/{owned}")).status == 403
