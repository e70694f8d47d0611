"""Inspection over the wire: a ramdisk hands in an inventory, and what becomes of it."""

from __future__ import annotations

import asyncio
import uuid as uuids
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metald.errors import RamdiskLost
from metald.model import Port, ProvisionState, Workflow
from metald.model.inventory import Inventory
from metald.statemachine.context import Context
from metald.statemachine.inspection import rules
from metald.store.changes import Change
from tests.support.api import Api, api_settings, serving

MAC = "52:54:00:00:00:01"
OTHER = "52:54:00:00:00:02"
URL = "/v1/continue_inspection"


def inventory(**more: Any) -> dict[str, Any]:
    return {
        "interfaces": [
            {"name": "eth0", "mac_address": MAC.upper(), "ipv4_address": "192.0.2.7", "lldp": []},
            {"name": "eth1", "mac_address": OTHER, "ipv4_address": None},
            {"name": "lo", "mac_address": "00:00:00:00:00:00", "ipv4_address": "127.0.0.1"},
        ],
        "cpu": {"architecture": "x86_64", "count": 8},
        "memory": {"physical_mb": 16384},
        "boot": {"pxe_interface": f"01-{MAC.replace(':', '-')}"},
        "system_vendor": {"manufacturer": "Dell Inc.", "serial_number": "SN1"},
        **more,
    }


async def waiting(api: Api, **fields: Any) -> str:
    """A node whose inspection waits for its ramdisk."""
    uuid = str((await api.node(inspect_interface="agent", **fields))["uuid"])
    await api.force(uuid, provision_state="manageable")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "inspect"})).status == 202
    await api.until(uuid, "inspect wait")
    return uuid


async def hand_in(api: Api, uuid: str, told: dict[str, Any] | None = None, **more: Any) -> Any:
    answer = await api.ask("POST", f"{URL}?node_uuid={uuid}", {"inventory": told or inventory(), **more}, version="1.1")
    assert answer.status == 202, answer.body
    return answer.json


async def test_an_inventory_is_kept_and_makes_ports_and_properties(api: Api) -> None:
    uuid = await waiting(api)
    assert (await api.ask("GET", f"/v1/nodes/{uuid}/inventory")).status == 404
    assert await hand_in(api, uuid, error=None, logs="H4sI" * 1000, extra_facts={"a": 1}) == {"uuid": uuid}
    node = await api.until(uuid, "manageable")
    assert node.properties["cpu_arch"] == "x86_64"
    assert node.last_error is None
    assert node.inspection_finished_at is not None
    ports = (await api.get(f"/v1/nodes/{uuid}/ports/detail"))["ports"]
    assert [(p["address"], p["pxe_enabled"]) for p in ports] == [(MAC, True)]
    found = await api.get(f"/v1/nodes/{uuid}/inventory")
    assert found["inventory"] == inventory()
    assert found["plugin_data"]["extra_facts"] == {"a": 1}
    assert found["plugin_data"]["macs"] == [MAC]
    assert "logs" not in found["plugin_data"]
    assert (await api.ask("GET", f"/v1/nodes/{uuid}/inventory", version="1.80")).status == 404
    kinds = [event.type for event in await api.house.conductor.timeline(uuid)]
    assert {"node.inventory", "port.create", "node.inspection"} <= set(kinds)
    assert (await api.ask("DELETE", f"/v1/nodes/{uuid}")).status == 204
    assert not list(api.house.store.table(Inventory))


async def test_a_second_inspection_replaces_what_the_first_found(api: Api) -> None:
    uuid = await waiting(api)
    await hand_in(api, uuid)
    await api.until(uuid, "manageable")
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "inspect"})).status == 202
    await api.until(uuid, "inspect wait")
    await hand_in(api, uuid, inventory(cpu={"architecture": "aarch64", "count": 2}))
    assert (await api.until(uuid, "manageable")).properties["cpu_arch"] == "aarch64"
    assert (await api.get(f"/v1/nodes/{uuid}/inventory"))["inventory"]["cpu"]["count"] == 2
    assert len(list(api.house.store.table(Inventory))) == 1
    assert len(list(api.house.store.table(Port))) == 1


async def test_versions_decide_the_answer(api: Api) -> None:
    uuid = await waiting(api)
    body = {"inventory": inventory()}
    for version in ("1.2", "1.22", "1.83"):
        assert (await api.ask("POST", URL, body, version=version)).status == 404
    answer = await api.ask("POST", f"{URL}?node_uuid={uuid}", body, version="1.84")
    assert answer.status == 202
    assert answer.json["node"]["uuid"] == uuid
    assert len(answer.json["config"]["agent_token"]) >= 32
    await api.until(uuid, "manageable")
    assert (await api.ask("POST", f"{URL}?node_uuid={uuid}", body, version=None)).status == 404


async def test_everything_told_must_mean_one_node(api: Api) -> None:
    first = await waiting(api, name="n1", driver_info={"ipmi_address": "192.0.2.1", "redfish_address": "https://[2001:db8::1]/"})
    second = await waiting(api, name="n2", driver_info={"ipmi_address": "192.0.2.2"})
    await api.make("ports", node_uuid=first, address=MAC)
    card = inventory()["interfaces"][:1]
    stranger = [{"name": "eth0", "mac_address": "52:54:00:00:00:99"}]
    refused: list[tuple[str, dict[str, Any]]] = [
        (f"?node_uuid={second}", {"interfaces": card}),
        (f"?node_uuid={uuids.uuid4()}", {"interfaces": card}),
        ("", {"interfaces": stranger}),
        ("", {"interfaces": card, "bmc_address": "192.0.2.2"}),
        ("", {"interfaces": stranger, "bmc_address": "127.0.0.1"}),
    ]
    texts = set()
    for query, told in refused:
        answer = await api.ask("POST", f"{URL}{query}", {"inventory": told}, version="1.1")
        assert answer.status == 404, (query, told)
        texts.add(answer.fault)
    assert len(texts) == 1
    await api.make("ports", node_uuid=second, address=OTHER)
    both = await api.ask("POST", URL, {"inventory": inventory()}, version="1.1")
    assert both.status == 404
    for told, uuid in (({"bmc_v6address": "2001:db8::1"}, first), ({"bmc_address": "192.0.2.2"}, second)):
        card = [{"name": "eth0", "mac_address": f"52:54:00:00:01:{len(list(api.house.store.table(Port))):02x}"}]
        body = {"inventory": inventory(interfaces=card, boot={}, **told)}
        answer = await api.ask("POST", URL, body, version="1.1")
        assert answer.json == {"uuid": uuid}
        await api.until(uuid, "manageable")


async def test_only_an_inspection_that_waits_is_served(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    body = {"inventory": inventory()}
    for state in ("enroll", "manageable", "inspecting", "inspect wait", "inspect failed", "active"):
        await api.force(uuid, provision_state=state)
        assert (await api.ask("POST", f"{URL}?node_uuid={uuid}", body, version="1.1")).status == 404, state
    assert (await api.ask("GET", f"/v1/nodes/{uuid}/inventory")).status == 404


async def test_bad_bodies_are_refused(api: Api) -> None:
    uuid = await waiting(api)
    rows: list[Any] = [
        {},
        {"inventory": 1},
        {"inventory": {}},
        {"inventory": {"interfaces": []}},
        {"inventory": {"interfaces": [1]}},
        {"inventory": {"interfaces": [{}]}},
        {"inventory": {"interfaces": [{"mac_address": 1}]}},
        {"inventory": {"interfaces": [{"mac_address": "x"}], "bmc_address": 5}},
        {"inventory": {"interfaces": [{"mac_address": "nothing"}]}},
        b"[",
    ]
    for body in rows:
        assert (await api.ask("POST", URL, body, version="1.1")).status == 400, body
    assert (await api.ask("POST", f"{URL}?node_uuid=x", {"inventory": inventory()}, version="1.1")).status == 400
    await hand_in(api, uuid, blob="x" * (2 << 20))
    await api.until(uuid, "manageable")


async def test_a_body_has_its_own_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, api_settings(max_inspection_body=5000)) as api:
        uuid = await waiting(api)
        body = {"inventory": inventory(), "blob": "x" * 5000}
        assert (await api.ask("POST", f"{URL}?node_uuid={uuid}", body, version="1.1")).status == 413


@pytest.mark.parametrize(
    ("told", "more", "text"),
    [
        (inventory(), {"error": "no disks; password=hush"}, "no disks"),
        (inventory(cpu=None), {}, "cpu/architecture"),
        (inventory(interfaces=[{"mac_address": MAC}]), {}, "no valid network interfaces"),
        (inventory(interfaces=[{"name": "eth0", "mac_address": MAC, "ipv4_address": "127.0.0.1"}]), {}, "No network interfaces match"),
        (inventory(interfaces=[{"name": "eth0", "mac_address": MAC, "ipv6_address": "::1"}]), {}, "No network interfaces match"),
    ],
)
async def test_what_cannot_be_used_fails_the_inspection(api: Api, told: dict[str, Any], more: dict[str, Any], text: str) -> None:
    uuid = await waiting(api)
    await hand_in(api, uuid, told, **more)
    node = await api.until(uuid, "inspect failed")
    assert text in (node.last_error or "")
    assert "hush" not in (node.last_error or "")
    assert not list(api.house.store.table(Port))
    assert (await api.get(f"/v1/nodes/{uuid}/inventory"))["inventory"] == told


async def test_an_inspection_can_be_aborted(api: Api) -> None:
    uuid = await waiting(api)
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "abort"})).status == 202
    node = await api.until(uuid, "inspect failed")
    assert "aborted" in (node.last_error or "")
    assert (await api.ask("POST", f"{URL}?node_uuid={uuid}", {"inventory": inventory()}, version="1.1")).status == 404


async def test_an_inventory_that_does_not_come_fails_the_inspection(tmp_path: Path) -> None:
    base = api_settings()
    settings = msgspec.structs.replace(base, conductor=msgspec.structs.replace(base.conductor, inspect_timeout=0.05))
    async with serving(tmp_path, settings) as api:
        uuid = (await api.node(inspect_interface="agent"))["uuid"]
        await api.force(uuid, provision_state="manageable")
        await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "inspect"})
        node = await api.until(uuid, "inspect failed")
        assert "the ramdisk to send its inventory in vain" in (node.last_error or "")


async def test_a_wait_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        uuid = await waiting(api)
    async with serving(tmp_path) as api:
        assert await hand_in(api, uuid) == {"uuid": uuid}
        await api.until(uuid, "manageable")
        assert (await api.get(f"/v1/nodes/{uuid}/inventory"))["inventory"]["cpu"]["count"] == 8
    async with serving(tmp_path) as api:
        assert (await api.get(f"/v1/nodes/{uuid}/inventory"))["inventory"]["cpu"]["count"] == 8


async def test_of_many_at_once_one_is_taken(api: Api) -> None:
    uuid = await waiting(api)
    asked = [api.ask("POST", f"{URL}?node_uuid={uuid}", {"inventory": inventory()}, version="1.1") for _ in range(8)]
    statuses = sorted([answer.status for answer in await asyncio.gather(*asked)])
    assert statuses == [202] + [404] * 7
    await api.until(uuid, "manageable")


async def test_a_port_of_another_node_stays_there(api: Api) -> None:
    other = (await api.node(name="other"))["uuid"]
    uuid = await waiting(api, driver_info={"ipmi_address": "192.0.2.1"})
    told = inventory(bmc_address="192.0.2.1", boot={"pxe_interface": OTHER})
    # The port appears while the ramdisk works: the BMC says whose machine it is, the port says otherwise.
    await api.make("ports", node_uuid=other, address=MAC)
    assert (await api.ask("POST", URL, {"inventory": told}, version="1.1")).status == 404
    told["interfaces"] = told["interfaces"][1:]
    assert (await api.ask("POST", URL, {"inventory": told}, version="1.1")).json == {"uuid": uuid}
    await api.until(uuid, "manageable")
    assert sorted((p.address, p.node_uuid) for p in api.house.store.table(Port)) == sorted([(MAC, other), (OTHER, uuid)])


async def test_rules_change_node_and_ports(api: Api) -> None:
    await api.make(
        "inspection_rules",
        priority=10,
        conditions=[
            {"op": "matches", "args": {"value": "{inventory[system_vendor][manufacturer]}", "regex": "Dell.*"}},
            {"op": "gt", "args": {"values": ["{inventory[memory][physical_mb]}", 8192]}},
            {"op": "!eq", "args": [["{inventory[cpu][count]}", "4"]]},
        ],
        actions=[
            {"op": "set-attribute", "args": {"path": "/resource_class", "value": "big-{inventory[cpu][count]}"}},
            {"op": "set-attribute", "args": {"path": "driver_info.ipmi_address", "value": "192.0.2.1"}},
            {"op": "set-capability", "args": ["boot_mode", "uefi"]},
            {"op": "add-trait", "args": {"name": "CUSTOM_BIG"}},
            {"op": "set-port-attribute", "args": {"port_id": MAC, "path": "/extra/rack", "value": "r1"}},
            {"op": "set-plugin-data", "args": {"path": "seen.by", "value": "rule"}},
            {"op": "log", "args": {"msg": "{node.uuid} is big"}},
        ],
    )
    await api.make(
        "inspection_rules", conditions=[{"op": "is-none", "args": {"value": "x"}}], actions=[{"op": "fail", "args": {"msg": "no"}}]
    )
    uuid = await waiting(api)
    await hand_in(api, uuid)
    node = await api.until(uuid, "manageable")
    assert node.resource_class == "big-8"
    assert node.driver_info == {"ipmi_address": "192.0.2.1"}
    assert node.properties["capabilities"] == "boot_mode:uefi"
    assert node.traits == ["CUSTOM_BIG"]
    assert [port.extra for port in api.house.store.table(Port)] == [{"rack": "r1"}]
    assert (await api.get(f"/v1/nodes/{uuid}/inventory"))["plugin_data"]["seen"] == {"by": "rule"}


async def test_a_rule_that_leads_to_the_impossible_fails_and_changes_nothing(api: Api) -> None:
    await api.node(name="taken")
    for path, value in (("name", "taken"), ("name", "a b"), ("properties", "text"), ("driver", "nothing"), ("protected", "maybe")):
        rule = await api.make(
            "inspection_rules",
            actions=[
                {"op": "set-attribute", "args": {"path": "extra/x", "value": 1}},
                {"op": "set-attribute", "args": {"path": path, "value": value}},
            ],
        )
        uuid = await waiting(api)
        await hand_in(api, uuid)
        node = await api.until(uuid, "inspect failed")
        assert node.extra == {}, path
        assert node.last_error, path
        assert "Internal" not in node.last_error, node.last_error
        assert not list(api.house.store.table(Port))
        assert not [w for w in api.house.store.table(Workflow).where("node_uuid", uuid) if not w.state.ended]
        await api.ask("DELETE", f"/v1/inspection_rules/{rule['uuid']}")
        await api.force(uuid, provision_state="manageable")
        assert (await api.ask("DELETE", f"/v1/nodes/{uuid}")).status == 204


async def test_rules_that_could_never_run_are_refused(api: Api) -> None:
    good = {"op": "fail", "args": {"msg": "x"}}
    for conditions, actions in (
        ([{"op": "!!eq", "args": {"values": []}}], [good]),
        ([{"op": "eq", "args": {}}], [good]),
        ([{"op": "eq", "args": {"values": [], "more": 1}}], [good]),
        ([{"op": "in-net", "args": ["192.0.2.1"]}], [good]),
        ([], [{"op": "fail", "args": []}]),
        ([], [{"op": "set-attribute", "args": {"path": "x"}}]),
        ([], [{"op": "api-call", "args": {"url": "http://192.0.2.1/"}}]),
    ):
        answer = await api.ask("POST", "/v1/inspection_rules", {"conditions": conditions, "actions": actions})
        assert answer.status == 400, (conditions, actions)


async def test_fake_inspection_needs_no_inventory(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, provision_state="manageable")
    await api.make("inspection_rules", actions=[{"op": "fail", "args": {"msg": "no"}}])
    await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "inspect"})
    assert (await api.until(uuid, "manageable")).provision_state is ProvisionState.MANAGEABLE


async def test_what_others_write_meanwhile_does_not_strand_the_inspection(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store = api.house.store
    write = Context.checkpoint

    async def later(context: Context) -> None:
        ports = {port.address: port for port in store.table(Port)}
        await store.commit(Change(save=[ports[MAC].changed(description="new")], delete=[ports[OTHER]]))
        await write(context)

    monkeypatch.setattr(Context, "checkpoint", later)
    uuid = await waiting(api)
    for address in (MAC, OTHER):
        await api.make("ports", node_uuid=uuid, address=address, pxe_enabled=address != MAC)
    await hand_in(api, uuid)
    await api.until(uuid, "manageable")
    assert [(port.address, port.pxe_enabled) for port in store.table(Port)] == [(MAC, True)]


async def test_a_port_that_appears_meanwhile_fails_the_inspection_and_can_be_tried_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store = api.house.store
    write = Context.checkpoint
    other = (await api.node(name="other"))["uuid"]

    async def later(context: Context) -> None:
        if store.table(Port).by("address", MAC) is None:
            await store.commit(Change(save=[Port(node_uuid=other, address=MAC)]))
        await write(context)

    monkeypatch.setattr(Context, "checkpoint", later)
    uuid = await waiting(api)
    await hand_in(api, uuid)
    node = await api.until(uuid, "inspect failed")
    assert "already exists" in (node.last_error or "")
    assert "cpu_arch" not in node.properties
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "inspect"})).status == 202
    await api.until(uuid, "inspect wait")


async def test_a_step_that_runs_twice_changes_nothing_the_second_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Context.checkpoint
    counted = rules.run
    runs: list[int] = []

    async def failing(context: Context) -> None:
        await write(context)
        monkeypatch.setattr(Context, "checkpoint", write)
        raise RamdiskLost("once")

    def run(*args: Any, **more: Any) -> list[str]:
        runs.append(1)
        return counted(*args, **more)

    monkeypatch.setattr(Context, "checkpoint", failing)
    monkeypatch.setattr(rules, "run", run)
    uuid = await waiting(api)
    await hand_in(api, uuid)
    await api.until(uuid, "manageable")
    assert len(runs) == 2
    assert len(list(api.house.store.table(Port))) == 1
