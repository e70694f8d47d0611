"""Words of Ironic's refusals that its clients' own test suites look for, and small rules of filters and of old versions."""

from __future__ import annotations

import uuid as uuids
from typing import Any

import pytest

from tests.support.api import Api

STEP = {"interface": "bios", "step": "apply_configuration", "args": {}, "priority": 10}


@pytest.mark.parametrize(
    ("path", "body", "phrase"),
    [
        ("allocations", {"resource_class": "x" * 81}, "is too long"),
        ("allocations", {"resource_class": "x", "uuid": "no"}, "Expected UUID for uuid: no"),
        ("allocations", {"resource_class": "x", "traits": ["foo"]}, "does not match"),
        ("allocations", {"resource_class": "x", "candidate_nodes": ["banana", "kiwi"]}, "Nodes cannot be found: banana, kiwi"),
        ("deploy_templates", {"name": "not/a/name", "steps": [STEP]}, "does not match"),
        ("deploy_templates", {"name": "CUSTOM_A", "steps": []}, "is too short"),
        ("deploy_templates", {"name": "CUSTOM_A", "steps": []}, "should be non-empty"),
        ("deploy_templates", {"name": "CUSTOM_A", "steps": [STEP, STEP]}, "Duplicates: interface: bios, step: apply_configuration."),
        ("nodes", {"driver": "fake-hardware", "extra": []}, "Schema error for node: array is not of type 'object', 'null', at extra"),
        ("nodes", {"driver": "fake-hardware", "junk": 1}, "Schema error for node: Additional properties are not allowed ('junk' was"),
        ("ports", {"node_uuid": str(uuids.uuid4()), "address": "x"}, "Expected valid MAC address for address: x"),
    ],
)
async def test_a_refusal_has_the_words_that_clients_look_for(api: Api, path: str, body: dict[str, Any], phrase: str) -> None:
    found = await api.ask("POST", f"/v1/{path}", body)
    assert found.status == 400
    assert phrase in found.fault


async def test_what_is_there_already_is_told_in_ironics_words(api: Api) -> None:
    node = (await api.node())["uuid"]
    connector = {"node_uuid": node, "type": "iqn", "connector_id": "a b"}
    target = {"node_uuid": node, "volume_type": "iscsi", "volume_id": "v", "boot_index": 0}
    rows = [
        ("allocations", {"resource_class": "x", "name": "al"}, "An allocation with name al already exists."),
        ("ports", {"node_uuid": node, "address": "52:54:00:00:00:01"}, "A port with MAC address 52:54:00:00:00:01 already exists."),
        (
            "inspection_rules",
            {"uuid": node, "actions": [{"op": "log", "args": {"msg": "x"}}]},
            f"An inspection rule with UUID {node} already exists.",
        ),
        ("volume/connectors", connector, "A volume connector with type iqn and connector ID a b already exists."),
        ("volume/targets", target, "A volume target with boot index '0' for the same node already exists."),
    ]
    for path, body, phrase in rows:
        assert (await api.ask("POST", f"/v1/{path}", body)).status == 201, path
        again = await api.ask("POST", f"/v1/{path}", body)
        assert (again.status, again.fault.partition(" Choose")[0][: len(phrase)]) == (409, phrase)


@pytest.mark.parametrize(
    ("operation", "path", "reason"),
    [
        ("replace", "/extra/none", "can't replace a non-existent object 'none'"),
        ("remove", "/extra/none", "can't remove a non-existent object 'none'"),
        ("remove", "/extra/list/5", "a non-existent object '5'"),
    ],
)
async def test_a_patch_of_what_is_not_there_says_so(api: Api, operation: str, path: str, reason: str) -> None:
    node = (await api.node(extra={"list": [1]}))["uuid"]
    found = await api.ask("PATCH", f"/v1/nodes/{node}", [{"op": operation, "path": path, "value": 1}])
    assert found.status == 400
    assert reason in found.fault


async def test_a_port_may_have_any_name(api: Api) -> None:
    node = (await api.node())["uuid"]
    made = await api.ask("POST", "/v1/ports", {"node_uuid": node, "address": "52:54:00:00:00:01", "name": "eth0 (onboard)"})
    assert made.status == 201
    assert made.json["name"] == "eth0 (onboard)"


async def test_the_children_of_an_unknown_node_are_none(api: Api) -> None:
    parent = (await api.node(name="parent"))["uuid"]
    child = (await api.node(parent_node=parent))["uuid"]
    assert [node["uuid"] for node in (await api.get("/v1/nodes?parent_node=parent"))["nodes"]] == [child]
    for given in ("nobody", str(uuids.uuid4()), "a%20b"):
        assert (await api.get(f"/v1/nodes?parent_node={given}"))["nodes"] == []


async def test_inspection_rules_are_filtered_by_phase(api: Api) -> None:
    rule = {"actions": [{"op": "log", "args": {"msg": "x"}}]}
    assert (await api.ask("POST", "/v1/inspection_rules", rule)).status == 201
    assert len((await api.get("/v1/inspection_rules?phase=main"))["inspection_rules"]) == 1
    assert (await api.get("/v1/inspection_rules?phase=other"))["inspection_rules"] == []


async def test_history_refuses_to_be_sorted_by_what_it_has_not(api: Api) -> None:
    node = (await api.node())["uuid"]
    assert (await api.ask("GET", f"/v1/nodes/{node}/history?sort_key=created_at")).status == 200
    assert (await api.ask("GET", f"/v1/nodes/{node}/history?sort_key=bogus")).status == 400


@pytest.mark.parametrize(("field", "since"), [("pxe_enabled", 19), ("physical_network", 34), ("is_smartnic", 53), ("portgroup_uuid", 24)])
async def test_an_old_version_cannot_remove_a_newer_field_of_a_port(api: Api, field: str, since: int) -> None:
    node = (await api.node())["uuid"]
    port = (await api.ask("POST", "/v1/ports", {"node_uuid": node, "address": "52:54:00:00:00:01"})).json["uuid"]
    operation = [{"op": "remove", "path": f"/{field}"}]
    assert (await api.ask("PATCH", f"/v1/ports/{port}", operation, version=f"1.{since - 1}")).status == 406
    assert (await api.ask("PATCH", f"/v1/ports/{port}", operation, version=f"1.{since}")).status == 200


async def test_a_state_that_there_is_not_takes_no_method(api: Api) -> None:
    node = (await api.node())["uuid"]
    assert (await api.ask("PUT", f"/v1/nodes/{node}/states/target_raid_config", {})).status == 405
    assert (await api.ask("GET", f"/v1/nodes/{node}/states/target_raid_config")).status == 404


@pytest.mark.parametrize(
    ("path", "version", "status", "phrase"),
    [
        ("nodes?sort_key=bogus", "1.115", 400, 'The sort_key value "bogus" is an invalid field for sorting'),
        ("nodes?sort_key=extra", "1.115", 400, "The sort_key value extra is an invalid field for sorting"),
        ("ports?node_uuid=nobody", "1.115", 400, "Expected UUID for node_uuid: nobody"),
        ("ports?node=nobody", "1.4", 406, "Request not acceptable."),
        ("nodes/validate?node=nobody", "1.4", 406, "Request not acceptable."),
        ("allocations?fields=owner", "1.59", 400, "owner"),
        ("runbooks?fields=traits", "1.111", 400, 'Field(s) "traits" are not valid'),
        ("deploy_templates?marker=nobody", "1.115", 404, "nobody could not be found."),
        ("runbooks?marker=nobody", "1.115", 404, "nobody could not be found."),
        ("inspection_rules?marker=nobody", "1.115", 404, "nobody could not be found."),
    ],
)
async def test_a_list_that_cannot_be_had_is_refused_as_by_ironic(api: Api, path: str, version: str, status: int, phrase: str) -> None:
    found = await api.ask("GET", f"/v1/{path}", version=version)
    assert found.status == status
    assert phrase in found.fault


async def test_a_page_of_what_has_names_begins_after_a_name(api: Api) -> None:
    for name in ("CUSTOM_A", "CUSTOM_B", "CUSTOM_C"):
        await api.make("deploy_templates", name=name, steps=[STEP])
    found = await api.get("/v1/deploy_templates?marker=CUSTOM_B&fields=name")
    assert [template["name"] for template in found["deploy_templates"]] == ["CUSTOM_C"]
