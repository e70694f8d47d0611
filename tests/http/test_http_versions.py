"""Microversions: negotiation, and what each one shows and takes."""

from __future__ import annotations

import json
from typing import Any

from metald.http import versions
from tests.support.api import Api

NODE_FIELDS = {
    "name": 5,
    "driver_internal_info": 3,
    "inspection_started_at": 6,
    "inspection_finished_at": 6,
    "clean_step": 7,
    "raid_config": 12,
    "target_raid_config": 12,
    "states": 14,
    "network_interface": 20,
    "resource_class": 21,
    "portgroups": 24,
    "boot_interface": 31,
    "console_interface": 31,
    "deploy_interface": 31,
    "inspect_interface": 31,
    "management_interface": 31,
    "power_interface": 31,
    "raid_interface": 31,
    "vendor_interface": 31,
    "volume": 32,
    "storage_interface": 33,
    "traits": 37,
    "rescue_interface": 38,
    "bios_interface": 40,
    "fault": 42,
    "deploy_step": 44,
    "conductor_group": 46,
    "automated_clean": 47,
    "protected": 48,
    "protected_reason": 48,
    "conductor": 49,
    "owner": 50,
    "description": 51,
    "allocation_uuid": 52,
    "retired": 61,
    "retired_reason": 61,
    "lessee": 65,
    "network_data": 66,
    "boot_mode": 75,
    "secure_boot": 75,
    "shard": 82,
    "parent_node": 83,
    "firmware_interface": 86,
    "service_step": 87,
    "disable_power_off": 95,
    "instance_name": 104,
    "health": 109,
}
PORT_FIELDS = {
    "internal_info": 18,
    "local_link_connection": 19,
    "pxe_enabled": 19,
    "portgroup_uuid": 24,
    "physical_network": 34,
    "is_smartnic": 53,
    "name": 88,
    "description": 97,
    "vendor": 100,
    "category": 101,
    "available_for_dynamic_portgroup": 111,
}


async def test_every_node_field_appears_with_its_version(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    newest = set(await api.get(f"/v1/nodes/{uuid}"))
    assert len(newest) == 69
    for minor in range(versions.MIN, versions.MAX + 1):
        shown = set(await api.get(f"/v1/nodes/{uuid}", f"1.{minor}"))
        assert shown == {name for name in newest if NODE_FIELDS.get(name, 1) <= minor}, minor


async def test_every_port_field_appears_with_its_version(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    port = (await api.make("ports", node_uuid=uuid, address="52:54:00:00:00:01"))["uuid"]
    newest = set(await api.get(f"/v1/ports/{port}"))
    for minor in range(versions.MIN, versions.MAX + 1):
        shown = set(await api.get(f"/v1/ports/{port}", f"1.{minor}"))
        assert shown == {name for name in newest if PORT_FIELDS.get(name, 1) <= minor}, minor


async def test_a_field_that_is_too_new_cannot_be_chosen_or_sorted_by(api: Api) -> None:
    for field, since in NODE_FIELDS.items():
        if field in ("states", "portgroups", "volume"):
            continue
        before = f"1.{max(since - 1, 8)}"
        if since > 8:
            assert (await api.ask("GET", f"/v1/nodes?fields={field}", version=before)).status == 406, field
            assert (await api.ask("GET", f"/v1/nodes?sort_key={field}", version=before)).status == 406, field
        assert (await api.ask("GET", f"/v1/nodes?fields={field}", version=f"1.{max(since, 8)}")).status == 200, field


async def test_the_answer_tells_the_version_that_was_asked_for(api: Api) -> None:
    rows: list[Any] = [
        ("X-OpenStack-Ironic-API-Version", "1.50", "1.50"),
        ("X-OpenStack-Ironic-API-Version", "latest", "1.115"),
        ("X-OpenStack-Ironic-API-Version", "LATEST", "1.115"),
        ("OpenStack-API-Version", "baremetal 1.50", "1.50"),
        ("OpenStack-API-Version", "baremetal latest", "1.115"),
        ("OpenStack-API-Version", "compute 2.1, baremetal 1.7", "1.7"),
        ("OpenStack-API-Version", "compute 2.1", "1.1"),
        ("X-Nothing", "1", "1.1"),
    ]
    for header, value, effective in rows:
        answer = await api.ask("GET", "/v1/nodes", version=None, headers={header: value})
        assert answer.status == 200
        assert answer.headers["X-OpenStack-Ironic-API-Version"] == effective
        assert answer.headers["X-OpenStack-Ironic-API-Minimum-Version"] == "1.1"
        assert answer.headers["X-OpenStack-Ironic-API-Maximum-Version"] == "1.115"
        assert answer.headers["x-openstack-request-id"] == answer.headers["openstack-request-id"]


async def test_the_standard_header_wins(api: Api) -> None:
    both = {"X-OpenStack-Ironic-API-Version": "1.9", "OpenStack-API-Version": "baremetal 1.30"}
    answer = await api.ask("GET", "/v1/nodes", version=None, headers=both)
    assert answer.headers["X-OpenStack-Ironic-API-Version"] == "1.30"


async def test_a_version_that_is_not_served_is_told_the_range(api: Api) -> None:
    rows: list[Any] = ["2.0", "1.116", "1.0", "0.9", "1", "x", "1.2.3", "", "-1.5", "1.1e9", "٣.٣", "1.99999999999999999999"]
    for value in rows:
        answer = await api.ask("GET", "/v1/nodes", version=None, headers={"X-OpenStack-Ironic-API-Version": value})
        assert answer.status == 406
        inner = json.loads(answer.json["error_message"])
        assert inner["code"] == 406
        assert "X-OpenStack-Ironic-API-Version" not in answer.headers
        assert answer.headers["X-OpenStack-Ironic-API-Maximum-Version"] == "1.115"


async def test_a_verb_that_is_too_new_is_not_acceptable(api: Api) -> None:
    rows: list[Any] = [
        ("manage", 4),
        ("inspect", 6),
        ("abort", 13),
        ("clean", 15),
        ("adopt", 17),
        ("rescue", 38),
        ("deploy", 73),
        ("undeploy", 73),
    ]
    for target, since in rows:
        uuid = (await api.node())["uuid"]
        answer = await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target}, version=f"1.{since - 1}")
        assert answer.status == 406
        assert f"1.{since}" in answer.json["metald"]["remedy"]


async def test_a_field_that_is_too_new_cannot_be_set(api: Api) -> None:
    rows: list[Any] = [
        ("name", "n", 5),
        ("resource_class", "x", 21),
        ("boot_interface", "fake", 31),
        ("owner", "o", 50),
        ("shard", "s", 82),
        ("instance_name", "i", 104),
    ]
    for field, value, since in rows:
        body = {"driver": "fake-hardware", field: value}
        assert (await api.ask("POST", "/v1/nodes", body, version=f"1.{since - 1}")).status == 406
        made = await api.make("nodes", f"1.{since}", **body)
        patch = [{"op": "replace", "path": f"/{field}", "value": value}]
        assert (await api.ask("PATCH", f"/v1/nodes/{made['uuid']}", patch, version=f"1.{since - 1}")).status == 406


async def test_states_have_older_names_in_older_versions(api: Api) -> None:
    old = await api.make("nodes", "1.10", driver="fake-hardware")
    assert old["provision_state"] == "available"
    assert (await api.get(f"/v1/nodes/{old['uuid']}", "1.1"))["provision_state"] is None
    await api.force(old["uuid"], provision_state="inspect wait")
    assert (await api.get(f"/v1/nodes/{old['uuid']}", "1.38"))["provision_state"] == "inspecting"
    assert (await api.get(f"/v1/nodes/{old['uuid']}", "1.39"))["provision_state"] == "inspect wait"


async def test_names_are_unknown_before_they_were_invented(api: Api) -> None:
    await api.node(name="n1")
    assert (await api.ask("GET", "/v1/nodes/n1", version="1.4")).status == 404
    assert (await api.ask("GET", "/v1/nodes/n1", version="1.5")).status == 200


async def test_a_json_suffix_is_stripped_in_older_versions_only(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    assert (await api.ask("GET", f"/v1/nodes/{uuid}.json", version="1.90")).status == 200
    assert (await api.ask("GET", "/v1/nodes.json", version="1.90")).status == 200
    assert (await api.ask("GET", f"/v1/nodes/{uuid}.json", version="1.91")).status == 404
    await api.node(name="a.json")
    assert (await api.get("/v1/nodes/a.json", "1.50"))["name"] == "a.json"
    assert (await api.get("/v1/nodes/a.json"))["name"] == "a.json"


async def test_a_body_reaches_a_name_that_ends_in_json(api: Api) -> None:
    await api.node(name="a.json")
    answer = await api.ask("PATCH", "/v1/nodes/a.json", [{"op": "add", "path": "/extra/a", "value": 1}], version="1.50")
    assert (answer.status, answer.json["extra"]) == (200, {"a": 1})
