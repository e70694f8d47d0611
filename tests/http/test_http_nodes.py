"""`/v1/nodes`: create, list, show, change, delete, validate."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from tests.support.api import Api


async def names(api: Api, query: str, version: str = "1.115") -> list[Any]:
    return [node["name"] for node in (await api.get(f"/v1/nodes?fields=name&{query}", version))["nodes"]]


async def change(api: Api, uuid: str, *operations: tuple[str, str, Any], status: int = 200, query: str = "") -> Any:
    patch = [{"op": op, "path": path} | ({} if op == "remove" else {"value": value}) for op, path, value in operations]
    answer = await api.ask("PATCH", f"/v1/nodes/{uuid}{query}", patch)
    assert answer.status == status, answer.body
    return answer.json if status == 200 else answer.fault


async def test_a_new_node_is_enrolled_with_default_interfaces(api: Api) -> None:
    answer = await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", "name": "n1", "driver_info": {"password": "p", "x": 1}})
    assert answer.status == 201
    node = answer.json
    assert answer.headers["Location"].endswith(f"/v1/nodes/{node['uuid']}")
    assert node["provision_state"] == "enroll"
    assert node["driver_info"] == {"password": "******", "x": 1}
    assert node["power_interface"] == "fake"
    assert node["network_interface"] == "noop"
    assert node["conductor"] == "test"
    assert node["links"][0] == {"href": f"{str(api.client.make_url('')).rstrip('/')}/v1/nodes/{node['uuid']}", "rel": "self"}
    assert api.house.node(node["uuid"]).driver_info == {"password": "p", "x": 1}


async def test_a_node_that_makes_no_sense_is_refused_with_the_field(api: Api) -> None:
    rows: list[Any] = [
        ({"driver": "nope"}, 400, "driver"),
        ({"driver": None}, 400, "driver"),
        ({"foo": 1}, 400, "foo"),
        ({"name": "a b"}, 400, "name"),
        ({"name": "detail"}, 400, "name"),
        ({"name": "x" * 256}, 400, "name"),
        ({"name": str(uuids.uuid4())}, 400, "name"),
        ({"uuid": "nope"}, 400, "uuid"),
        ({"maintenance": "maybe"}, 400, "maintenance"),
        ({"extra": []}, 400, "extra"),
        ({"deploy_interface": "nope"}, 400, "deploy_interface"),
        ({"chassis_uuid": "11111111-2222-3333-4444-555555555555"}, 400, "chassis_uuid"),
        ({"parent_node": "nobody"}, 400, "parent_node"),
        ({"conductor_group": "elsewhere"}, 400, "conductor_group"),
        ({"description": "x" * 4097}, 400, "description"),
        ({"resource_class": "x" * 81}, 400, "resource_class"),
        ({"network_data": {"links": []}}, 400, "network_data/networks"),
        ({"provision_state": "active"}, 400, "provision_state"),
        ({"protected": True}, 400, "protected"),
    ]
    for fields, status, field in rows:
        answer = await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", **fields})
        assert answer.status == status
        assert answer.json["metald"]["field"] == field
        assert (await api.get("/v1/nodes"))["nodes"] == []


async def test_names_uuids_and_instances_are_unique(api: Api) -> None:
    instance = str(uuids.uuid4())
    node = await api.node(name="n1", instance_uuid=instance)
    for fields in ({"name": "n1"}, {"uuid": node["uuid"]}, {"instance_uuid": instance}):
        answer = await api.ask("POST", "/v1/nodes", {"driver": "fake-hardware", **fields})
        assert answer.status == 409
    assert "A node with" in answer.fault


async def test_a_uuid_is_taken_in_any_form(api: Api) -> None:
    node = await api.node(uuid="AAAAAAAABBBBCCCCDDDDEEEEEEEEEEEE")
    assert node["uuid"] == "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    assert (await api.get("/v1/nodes/AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE"))["uuid"] == node["uuid"]


async def test_lists_show_few_fields_unless_asked(api: Api) -> None:
    await api.node(name="n1")
    plain = (await api.get("/v1/nodes"))["nodes"][0]
    assert set(plain) == {"instance_uuid", "maintenance", "power_state", "provision_state", "uuid", "name", "links"}
    assert set((await api.get("/v1/nodes?fields=extra,uuid"))["nodes"][0]) == {"extra", "uuid", "links"}
    assert set((await api.get("/v1/nodes?fields=EXTRA&fields=uuid"))["nodes"][0]) == {"extra", "uuid", "links"}
    assert len((await api.get("/v1/nodes?detail=true"))["nodes"][0]) == 69
    assert len((await api.get("/v1/nodes/detail"))["nodes"][0]) == 69


async def test_a_list_that_cannot_be_is_refused(api: Api) -> None:
    rows: list[Any] = [
        ("fields=bogus", 400),
        ("fields=uuid&detail=true", 400),
        ("detail=maybe", 400),
        ("limit=0", 400),
        ("limit=-5", 400),
        ("limit=x", 400),
        ("limit=" + "9" * 400, 400),
        ("limit=1&limit=2", 400),
        ("marker=x", 400),
        ("marker=11111111-2222-3333-4444-555555555555", 404),
        ("sort_key=bogus", 400),
        ("sort_key=extra", 400),
        ("sort_dir=up", 400),
        ("bogus=1", 400),
        ("provision_state=bogus", 400),
        ("fault=bogus", 400),
        ("maintenance=maybe", 400),
        ("instance_uuid=x", 400),
        ("%ff=%ff", 400),
        ("chassis_uuid=11111111-2222-3333-4444-555555555555", 404),
    ]
    for query, status in rows:
        assert (await api.ask("GET", f"/v1/nodes?{query}")).status == status


async def test_detail_is_too_new_before_1_43(api: Api) -> None:
    answer = await api.ask("GET", "/v1/nodes?detail=true", version="1.42")
    assert answer.status == 400
    assert "detail" in answer.fault


async def test_every_filter_filters(api: Api) -> None:
    chassis = (await api.make("chassis"))["uuid"]
    instance = str(uuids.uuid4())
    await api.node(name="plain")
    parent = await api.node(
        name="full", chassis_uuid=chassis, instance_uuid=instance, maintenance=True, resource_class="rc", owner="o", lessee="l",
        description="Has a GPU", shard="s1", instance_name="web", retired=True,
    )  # fmt: skip
    await api.force(parent["uuid"], fault="power failure", provision_state="active")
    for query in (
        f"chassis_uuid={chassis}",
        f"instance_uuid={instance}",
        "associated=true",
        "maintenance=yes",
        "provision_state=active",
        "resource_class=rc",
        "owner=o",
        "lessee=l",
        "project=o",
        "project=l",
        "description_contains=gpu",
        "shard=s1,s2",
        "sharded=true",
        "retired=true",
        "instance_name=web",
        "fault=power%20failure",
        f"instance_uuid={instance}&maintenance=true",
    ):
        assert await names(api, query) == ["full"], query
    assert await names(api, "maintenance=false") == ["plain"]
    assert await names(api, "sharded=false") == ["plain"]
    assert await names(api, "driver=fake-hardware&conductor=test&conductor_group=") == ["plain", "full"]
    assert await names(api, "conductor=other") == []
    assert await names(api, "driver=ipmi") == []


async def test_children_are_hidden_unless_asked_for(api: Api) -> None:
    parent = await api.node(name="parent")
    await api.node(name="child", parent_node="parent")
    assert await names(api, "") == ["parent"]
    assert await names(api, "include_children=true") == ["parent", "child"]
    assert await names(api, f"parent_node={parent['uuid']}") == ["child"]


async def test_pages_follow_one_another_and_keep_their_filters(api: Api) -> None:
    for number in range(5):
        await api.node(name=f"n{number}", resource_class="rc")
    url = "/v1/nodes?limit=2&resource_class=rc&fields=name,uuid"
    found = []
    while url:
        page = await api.get(url)
        found += [node["name"] for node in page["nodes"]]
        url = page.get("next", "").removeprefix(str(api.client.make_url("")).rstrip("/"))
        if url:
            assert url.startswith("/v1/nodes?sort_key=id&sort_dir=asc&resource_class=rc&fields=name,uuid&limit=2&marker=")
    assert found == ["n0", "n1", "n2", "n3", "n4"]


async def test_lists_sort_with_unknowns_first(api: Api) -> None:
    for name in ("b", None, "a"):
        await api.node(name=name)
    assert await names(api, "sort_key=name") == [None, "a", "b"]
    assert await names(api, "sort_key=name&sort_dir=desc") == ["b", "a", None]
    assert await names(api, "sort_key=created_at&sort_dir=desc") == ["a", None, "b"]
    marker = (await api.get("/v1/nodes/a"))["uuid"]
    assert await names(api, f"sort_key=name&marker={marker}") == ["b"]


async def test_a_patch_that_does_not_fit_changes_nothing(api: Api) -> None:
    await api.node(name="n1", extra={"a": "text"})
    rows: list[Any] = [
        [("test", "/extra/a", 1)],
        [("add", "/uuid", "x")],
        [("add", "/provision_state", "active")],
        [("add", "/foo", 1)],
        [("replace", "/extra/none", 1)],
        [("remove", "/extra/none", None)],
        [("remove", "/driver", None)],
        [("add", "extra", 1)],
        [("add", "/", 1)],
        [("add", "/extra", "text")],
        [("add", "/extra/a/b/c", 1)],
        [("replace", "/driver", "nope")],
        [("replace", "/deploy_interface", "nope")],
        [("replace", "/protected_reason", "x")],
        [("replace", "/retired_reason", "x")],
        [("replace", "/maintenance_reason", "x")],
        [("replace", "/traits", [])],
        [("replace", "/name", "a b")],
    ]
    for operations in rows:
        before = await api.get("/v1/nodes/n1")
        await change(api, before["uuid"], ("add", "/extra/b", 1), *operations, status=400)
        assert await api.get("/v1/nodes/n1") == before


async def test_patches_change_deep_values(api: Api) -> None:
    uuid = (await api.node(extra={"list": [1, 3]}))["uuid"]
    node = await change(
        api,
        uuid,
        ("add", "/extra/new", {"a": 1}),
        ("add", "/extra/new/b", 2),
        ("add", "/extra/list/1", 2),
        ("add", "/extra/list/-", 4),
        ("replace", "/extra/list/0", 0),
        ("remove", "/extra/list/2", None),
        ("add", "/extra/with.dot", 1),
        ("add", "/extra/a~1b", 1),
        ("add", "/properties/capabilities", "boot_mode:uefi"),
        ("replace", "/maintenance", "yes"),
    )
    assert node["extra"] == {"new": {"a": 1, "b": 2}, "list": [0, 2, 4], "with.dot": 1, "a/b": 1}
    assert node["properties"] == {"capabilities": "boot_mode:uefi"}
    assert node["maintenance"] is True
    assert node["updated_at"] is not None


async def test_a_patch_works_on_the_secret_behind_the_mask(api: Api) -> None:
    uuid = (await api.node(driver_info={"ipmi_password": "secret", "ipmi_hex_kg_key": "abcd"}))["uuid"]
    node = await change(api, uuid, ("add", "/driver_info/ipmi_address", "10.0.0.1"))
    assert node["driver_info"] == {"ipmi_password": "******", "ipmi_hex_kg_key": "******", "ipmi_address": "10.0.0.1"}
    assert api.house.node(uuid).driver_info["ipmi_password"] == "secret"


async def test_removing_a_field_gives_its_default(api: Api) -> None:
    uuid = (await api.node(extra={"a": 1}, maintenance=True, description="d", management_interface="noop"))["uuid"]
    node = await change(
        api, uuid, *(("remove", f"/{field}", None) for field in ("extra", "maintenance", "description", "management_interface"))
    )
    assert (node["extra"], node["maintenance"], node["description"], node["management_interface"]) == ({}, False, None, "fake")


async def test_leaving_maintenance_clears_its_reason_and_the_fault(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, maintenance=True, maintenance_reason="r", fault="power failure")
    node = await change(api, uuid, ("replace", "/maintenance", False))
    assert (node["maintenance_reason"], node["fault"]) == (None, None)


async def test_a_new_driver_may_reset_interfaces(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    assert (await change(api, uuid, ("replace", "/driver", "scripted"), status=400)).startswith("Hardware type scripted does not support")
    node = await change(api, uuid, ("replace", "/driver", "scripted"), query="?reset_interfaces=true")
    assert (node["deploy_interface"], node["boot_interface"]) == ("scripted", "quiet")
    assert (await api.ask("PATCH", f"/v1/nodes/{uuid}?reset_interfaces=true", [])).status == 400
    assert (await api.ask("PATCH", f"/v1/nodes/{uuid}?reset_interfaces=true", [], version="1.44")).status == 406


async def test_the_display_name_becomes_the_instance_name(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    node = await change(api, uuid, ("add", "/instance_info/display_name", "web"))
    assert node["instance_name"] == "web"


async def test_secrets_are_masked_wherever_they_are(api: Api) -> None:
    uuid = (await api.node(driver_info={"nested": {"list": [{"api_token": "t"}]}, "note": 'password="abc" x'}))["uuid"]
    await api.force(uuid, last_error="login with password=hunter2 failed", instance_info={"configdrive": "x", "image_url": "y"})
    node = await api.get(f"/v1/nodes/{uuid}")
    assert node["driver_info"] == {"nested": {"list": [{"api_token": "******"}]}, "note": 'password="******" x'}
    assert node["instance_info"] == {"configdrive": "******", "image_url": "******"}
    assert "hunter2" not in node["last_error"]
    assert "hunter2" not in (await api.ask("GET", f"/v1/nodes/{uuid}/states")).body.decode()


async def test_a_deleted_node_is_gone_with_its_ports(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    await api.make("ports", node_uuid=uuid, address="52:54:00:00:00:01")
    assert (await api.ask("DELETE", "/v1/nodes/n1")).status == 204
    assert (await api.ask("GET", f"/v1/nodes/{uuid}")).status == 404
    assert (await api.ask("DELETE", f"/v1/nodes/{uuid}")).status == 404
    assert (await api.get("/v1/ports"))["ports"] == []
    await api.node(name="n1")


async def test_validate_tells_of_twelve_interfaces(api: Api) -> None:
    uuid = (await api.node(name="n1", console_interface="no-console"))["uuid"]
    found = await api.get("/v1/nodes/n1/validate")
    assert len(found) == 12
    assert found["power"] == {"result": True}
    assert found["console"]["result"] is False
    assert found["console"]["reason"]
    assert await api.get(f"/v1/nodes/validate?node={uuid}") == found
    assert (await api.ask("GET", "/v1/nodes/validate")).status == 400
    assert (await api.ask("GET", "/v1/nodes/nobody/validate")).status == 404


async def test_an_identifier_is_a_uuid_or_a_name(api: Api) -> None:
    rows: list[Any] = [("a%20b", 400), ("nobody", 404), ("%ff", 400), ("..", 404), ("x" * 300, 400), ("a%2Fb", 400)]
    for ident, status in rows:
        for method in ("GET", "DELETE"):
            answer = await api.ask(method, f"/v1/nodes/{ident}")
            # A path of dots is resolved by the client before it is sent.
            assert answer.status == status or ident == ".."
