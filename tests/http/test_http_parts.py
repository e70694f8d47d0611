"""Boot device, traits, VIFs, wanted RAID, ports, chassis, drivers, conductors, agents, and metald's own paths."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from tests.support.api import Api

MAC = "52:54:00:00:00:01"


async def test_boot_devices_are_shown_set_and_refused(api: Api) -> None:
    await api.node(name="n1")
    assert await api.get("/v1/nodes/n1/management/boot_device/supported") == {"supported_boot_devices": ["pxe"]}
    answer = await api.ask("PUT", "/v1/nodes/n1/management/boot_device", {"boot_device": "pxe", "persistent": "yes"})
    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert (await api.get("/v1/nodes/n1/management/boot_device"))["boot_device"] == "pxe"
    for body in ({}, {"boot_device": "bogus"}, {"boot_device": "disk"}, {"boot_device": "pxe", "persistent": "maybe"}, {"boot_device": 1}):
        assert (await api.ask("PUT", "/v1/nodes/n1/management/boot_device", body)).status == 400, body
    assert (await api.ask("PUT", "/v1/nodes/n1/management/inject_nmi", {}, version="1.28")).status == 404
    assert (await api.ask("PUT", "/v1/nodes/n1/management/inject_nmi", {})).status in (204, 400)


async def test_reading_the_boot_device_needs_no_lock(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    await api.force(uuid, reservation="test")
    assert (await api.ask("GET", "/v1/nodes/n1/management/boot_device")).status == 200
    assert (await api.ask("PUT", "/v1/nodes/n1/management/boot_device", {"boot_device": "pxe"})).status == 409
    await api.force(uuid, reservation=None)


async def test_traits_are_replaced_added_and_removed(api: Api) -> None:
    await api.node(name="n1")
    path = "/v1/nodes/n1/traits"
    assert (await api.ask("PUT", path, {"traits": ["CUSTOM_B", "HW_CPU_X86_VMX", "CUSTOM_A", "CUSTOM_A"]})).status == 204
    assert await api.get(path) == {"traits": ["CUSTOM_A", "CUSTOM_B", "HW_CPU_X86_VMX"]}
    answer = await api.ask("PUT", f"{path}/CUSTOM_C")
    assert answer.status == 204
    assert answer.headers["Location"].endswith("/v1/nodes/n1/traits/CUSTOM_C")
    assert (await api.ask("DELETE", f"{path}/CUSTOM_A")).status == 204
    assert (await api.ask("DELETE", f"{path}/CUSTOM_A")).status == 404
    assert (await api.get("/v1/nodes/n1"))["traits"] == ["CUSTOM_B", "CUSTOM_C", "HW_CPU_X86_VMX"]
    for body in (
        {},
        {"traits": 3},
        {"traits": ["bogus"]},
        {"traits": ["CUSTOM_a"]},
        {"traits": [f"CUSTOM_{n}" for n in range(51)]},
        {"x": []},
    ):
        assert (await api.ask("PUT", path, body)).status == 400, body
    assert (await api.ask("PUT", f"{path}/CUSTOM_D", {"traits": []})).status == 400
    assert (await api.ask("PUT", f"{path}/bogus")).status == 400
    assert (await api.ask("DELETE", path)).status == 204
    assert await api.get(path) == {"traits": []}
    assert (await api.ask("GET", path, version="1.36")).status == 406


async def test_vifs_mean_nothing_without_a_network(api: Api) -> None:
    await api.node(name="n1")
    assert await api.get("/v1/nodes/n1/vifs") == {"vifs": []}
    vif = str(uuids.uuid4())
    assert (await api.ask("POST", "/v1/nodes/n1/vifs", {"id": vif, "other": 1})).status == 204
    assert (await api.ask("DELETE", f"/v1/nodes/n1/vifs/{vif}")).status == 204
    for body in ({}, {"id": "a b"}, {"id": vif, "port_uuid": vif, "portgroup_uuid": vif}):
        assert (await api.ask("POST", "/v1/nodes/n1/vifs", body)).status == 400
    assert (await api.ask("GET", "/v1/nodes/n1/vifs", version="1.27")).status == 404


async def test_a_wanted_raid_is_checked_and_kept(api: Api) -> None:
    await api.force((await api.node(name="n1"))["uuid"], raid_interface="fake")
    wanted = {"logical_disks": [{"raid_level": "1", "size_gb": "MAX", "is_root_volume": True}]}
    assert (await api.ask("PUT", "/v1/nodes/n1/states/raid", wanted)).status == 204
    assert (await api.get("/v1/nodes/n1"))["target_raid_config"] == wanted
    disk = wanted["logical_disks"][0]
    for disks in (
        [],
        [{"size_gb": 1}],
        [{**disk, "raid_level": "9"}],
        [{**disk, "physical_disks": ["a"]}],
        [disk, disk],
        [{**disk, "x": 1}],
    ):
        assert (await api.ask("PUT", "/v1/nodes/n1/states/raid", {"logical_disks": disks})).status == 400, disks
    assert (await api.ask("PUT", "/v1/nodes/n1/states/raid", {})).status == 204
    await api.node(name="n2", raid_interface="no-raid")
    assert (await api.ask("PUT", "/v1/nodes/n2/states/raid", wanted)).status == 404


async def test_a_port_lives_with_its_node(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    answer = await api.ask("POST", "/v1/ports", {"node_ident": "n1", "address": MAC.upper(), "name": "eth0"})
    assert answer.status == 201
    port = answer.json
    assert answer.headers["Location"].endswith(f"/v1/ports/{port['uuid']}")
    assert (port["address"], port["node_uuid"], port["pxe_enabled"], port["is_smartnic"]) == (MAC, uuid, True, False)
    assert await api.get("/v1/ports/eth0") == port
    for path in (
        f"/v1/nodes/{uuid}/ports",
        "/v1/nodes/n1/ports",
        "/v1/ports?node=n1",
        f"/v1/ports?node_uuid={uuid}",
        f"/v1/ports?address={MAC}",
    ):
        assert [p["uuid"] for p in (await api.get(path))["ports"]] == [port["uuid"]], path
    assert (await api.get("/v1/nodes/n1/ports/detail"))["ports"] == [port]
    assert (await api.get("/v1/ports?address=52:54:00:00:00:99"))["ports"] == []
    assert (await api.ask("GET", "/v1/ports?node=nobody")).status == 404
    assert (await api.ask("GET", "/v1/ports?node=n1&shard=s")).status == 403
    assert (await api.ask("DELETE", "/v1/ports/eth0")).status == 204
    assert (await api.ask("GET", f"/v1/ports/{port['uuid']}")).status == 404


async def test_a_port_that_makes_no_sense_is_refused(api: Api) -> None:
    uuid = (await api.node(name="n1"))["uuid"]
    await api.make("ports", node_uuid=uuid, address=MAC, name="taken")
    base = {"node_uuid": uuid, "address": "52:54:00:00:00:02"}
    rows: list[tuple[dict[str, Any], int]] = [
        ({**base, "address": MAC}, 409),
        ({**base, "name": "taken"}, 409),
        ({**base, "node_uuid": str(uuids.uuid4())}, 400),
        ({**base, "node_ident": "n1"}, 400),
        ({"address": MAC}, 400),
        ({"node_uuid": uuid}, 400),
        ({**base, "address": "nope"}, 400),
        ({**base, "junk": 1}, 400),
        ({**base, "physical_network": ""}, 400),
        ({**base, "local_link_connection": {"port_id": "1"}}, 400),
        ({**base, "local_link_connection": {"port_id": "1", "switch_id": "nope"}}, 400),
        ({**base, "local_link_connection": {"junk": "1"}}, 400),
        ({**base, "is_smartnic": True, "local_link_connection": {"port_id": "1", "switch_id": MAC}}, 400),
    ]
    for body, status in rows:
        answer = await api.ask("POST", "/v1/ports", body)
        assert answer.status == status, (body, answer.body)


async def test_links_are_normalised(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    for number, (link, kept) in enumerate(
        (
            ({"port_id": "1", "switch_id": "AA-BB-CC-DD-EE-FF"}, {"port_id": "1", "switch_id": "aa:bb:cc:dd:ee:ff"}),
            ({"port_id": "1", "switch_id": "AABBCCDDEEFF0011"}, {"port_id": "1", "switch_id": "aabbccddeeff0011"}),
            ({"network_type": "unmanaged"}, {"network_type": "unmanaged"}),
            ({}, {}),
        )
    ):
        port = await api.make("ports", node_uuid=uuid, address=f"52:54:00:00:01:0{number}", local_link_connection=link)
        assert port["local_link_connection"] == kept


async def test_ports_are_changed_where_their_node_allows_it(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    port = (await api.make("ports", node_uuid=uuid, address=MAC))["uuid"]

    async def change(path: str, value: Any) -> int:
        return (await api.ask("PATCH", f"/v1/ports/{port}", [{"op": "replace", "path": path, "value": value}])).status

    assert await change("/pxe_enabled", "no") == 200
    assert await change("/address", "52:54:00:00:00:0A") == 200
    assert (await api.get(f"/v1/ports/{port}"))["address"] == "52:54:00:00:00:0a"
    assert await change("/uuid", str(uuids.uuid4())) == 400
    assert await change("/node_uuid", str(uuids.uuid4())) == 400
    await api.force(uuid, provision_state="active")
    assert await change("/address", MAC) == 409
    assert await change("/pxe_enabled", True) == 409
    assert await change("/extra", {"a": 1}) == 200
    await api.force(uuid, maintenance=True)
    assert await change("/address", MAC) == 200
    await api.force(uuid, maintenance=False, provision_state="inspecting")
    assert await change("/extra", {}) == 409


async def test_chassis_hold_nodes(api: Api) -> None:
    chassis = await api.make("chassis", description="rack", extra={"a": 1})
    uuid = chassis["uuid"]
    assert chassis["nodes"][0][0]["href"].endswith(f"/v1/chassis/{uuid}/nodes")
    node = (await api.node(chassis_uuid=uuid))["uuid"]
    assert [n["uuid"] for n in (await api.get(f"/v1/chassis/{uuid}/nodes"))["nodes"]] == [node]
    assert (await api.get(f"/v1/chassis/{uuid}/nodes/detail"))["nodes"][0]["chassis_uuid"] == uuid
    assert set((await api.get("/v1/chassis"))["chassis"][0]) == {"uuid", "description", "links"}
    assert (await api.get("/v1/chassis/detail"))["chassis"][0] == chassis
    patch = [{"op": "replace", "path": "/description", "value": "row"}, {"op": "remove", "path": "/extra"}]
    changed = (await api.ask("PATCH", f"/v1/chassis/{uuid}", patch)).json
    assert (changed["description"], changed["extra"]) == ("row", {})
    assert (await api.ask("DELETE", f"/v1/chassis/{uuid}")).status == 400
    answer = await api.ask("PATCH", f"/v1/nodes/{node}", [{"op": "remove", "path": "/chassis_uuid"}], version="1.24")
    assert answer.status == 406
    assert (await api.ask("PATCH", f"/v1/nodes/{node}", [{"op": "remove", "path": "/chassis_uuid"}])).status == 200
    assert (await api.ask("DELETE", f"/v1/chassis/{uuid}")).status == 204
    assert (await api.ask("GET", f"/v1/chassis/{uuid}")).status == 404
    assert (await api.ask("GET", "/v1/chassis/nope")).status == 400


async def test_drivers_tell_what_they_can(api: Api) -> None:
    drivers = (await api.get("/v1/drivers"))["drivers"]
    assert [d["name"] for d in drivers] == ["fake-hardware", "scripted"]
    assert drivers[0]["hosts"] == ["test"]
    assert drivers[0]["type"] == "dynamic"
    assert (await api.get("/v1/drivers?type=classic"))["drivers"] == []
    full = await api.get("/v1/drivers/fake-hardware")
    assert full["default_power_interface"] == "fake"
    assert "fake" in full["enabled_power_interfaces"]
    assert "enabled_firmware_interfaces" not in await api.get("/v1/drivers/fake-hardware", "1.85")
    assert set(await api.get("/v1/drivers/fake-hardware", "1.1")) == {"name", "hosts", "links"}
    assert await api.get("/v1/drivers/fake-hardware?fields=name", "1.77") == {"name": "fake-hardware", "links": full["links"]}
    assert (await api.ask("GET", "/v1/drivers?fields=name", version="1.76")).status == 406
    assert (await api.ask("GET", "/v1/drivers?fields=bogus")).status == 400
    assert (await api.ask("GET", "/v1/drivers?type=bogus")).status == 400
    assert (await api.ask("GET", "/v1/drivers?detail=true", version="1.29")).status == 406
    assert (await api.ask("GET", "/v1/drivers/nope")).status == 404
    assert isinstance(await api.get("/v1/drivers/fake-hardware/properties"), dict)
    assert await api.get("/v1/drivers/fake-hardware/vendor_passthru/methods") == {}
    assert (await api.ask("POST", "/v1/drivers/fake-hardware/vendor_passthru/x", {})).status == 400


async def test_there_is_one_conductor(api: Api) -> None:
    found = (await api.get("/v1/conductors"))["conductors"]
    assert [(c["hostname"], c["alive"], c["conductor_group"]) for c in found] == [("test", True, "")]
    assert (await api.get("/v1/conductors/test"))["drivers"] == ["fake-hardware", "scripted"]
    assert (await api.get("/v1/conductors?limit=1"))["next"].endswith("&limit=1&marker=test")
    assert (await api.get("/v1/conductors?marker=test"))["conductors"] == []
    assert (await api.ask("GET", "/v1/conductors/nope")).status == 404
    assert (await api.ask("GET", "/v1/conductors", version="1.48")).status == 404


async def test_an_agent_finds_its_node_and_gets_its_token_once(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.make("ports", node_uuid=uuid, address=MAC)
    assert (await api.ask("GET", f"/v1/lookup?addresses={MAC}")).status == 404
    await api.force(uuid, provision_state="wait call-back")
    assert (await api.get(f"/v1/lookup?addresses={MAC}", "1.61"))["config"]["agent_token"] is None
    assert (await api.ask("GET", f"/v1/lookup?addresses={MAC}", version="1.31")).status == 409
    found = await api.get(f"/v1/lookup?addresses=nonsense,{MAC}", "1.62")
    assert found["node"]["uuid"] == uuid
    assert set(found["node"]) == {"uuid", "properties", "instance_info", "driver_internal_info", "links"}
    token = found["config"]["agent_token"]
    assert len(token) >= 32
    assert found["config"]["heartbeat_timeout"] == 300
    assert (await api.get(f"/v1/lookup?node_uuid={uuid}"))["config"]["agent_token"] == "******"
    assert token not in (await api.ask("GET", f"/v1/nodes/{uuid}")).body.decode()
    body = {"callback_url": "https://10.0.0.5:9999", "agent_version": "1", "agent_token": token}
    answer = await api.ask("POST", f"/v1/heartbeat/{uuid}", body)
    assert (answer.status, answer.body) == (202, b"")
    assert api.house.node(uuid).driver_internal_info["agent_url"] == "https://10.0.0.5:9999"
    rows: list[tuple[dict[str, Any], str, int]] = [
        ({}, "1.115", 400),
        ({**body, "agent_token": "wrong"}, "1.115", 400),
        ({**body, "callback_url": "ftp://x"}, "1.115", 400),
        ({**body, "junk": 1}, "1.115", 400),
        ({**body, "agent_status": "bogus"}, "1.115", 400),
        ({**body, "agent_status": "end"}, "1.71", 400),
        (body, "1.21", 404),
    ]
    for beat, version, status in rows:
        assert (await api.ask("POST", f"/v1/heartbeat/{uuid}", beat, version=version)).status == status, beat
    assert (await api.ask("POST", "/v1/heartbeat/nobody", body)).status == 404
    assert (await api.ask("GET", "/v1/lookup")).status == 400
    assert (await api.ask("GET", f"/v1/lookup?node_uuid={uuid}", version="1.21")).status == 404


async def test_what_is_metalds_own(api: Api) -> None:
    uuid = (await api.node(name="n1", driver_info={"password": "x"}))["uuid"]
    assert (await api.ask("GET", "/healthz", version=None)).json == {"status": "alive"}
    assert (await api.ask("GET", "/readyz", version=None)).status == 200
    api.ready = False
    assert (await api.ask("GET", "/readyz", version=None)).status == 503
    events = (await api.get(f"/v1/nodes/{uuid}/timeline"))["timeline"]
    assert [event["type"] for event in events] == ["node.create"]
    assert (await api.get("/v1/nodes/n1/progress")) == {"progress": {}, "waiting": []}
    found = await api.get("/v1/events?limit=1")
    assert len(found["events"]) == 1
    assert found["last_seq"] >= 1
    assert (await api.get(f"/v1/events?since={found['last_seq']}"))["events"] == []
    assert (await api.ask("GET", "/v1/events?since=-1")).status == 400
    assert (await api.ask("GET", "/v1/events?limit=0")).status == 400
