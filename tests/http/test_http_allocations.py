"""Allocations: who gets which node, and what becomes of the claim."""

from __future__ import annotations

import asyncio
from typing import Any

from metald.model.caller import SYSTEM
from metald.model.catalogue import Allocation
from tests.support.api import Api


async def ready(api: Api, name: str, **fields: Any) -> str:
    """A node that can be allocated."""
    uuid: str = (await api.node(name=name, resource_class="rc"))["uuid"]
    await api.force(uuid, provision_state="available", power_state="power off", **fields)
    return uuid


async def claim(api: Api, **fields: Any) -> Any:
    """Claim a node and return the claim once it is decided."""
    made = await api.make("allocations", **{"resource_class": "rc", **fields})
    assert (made["state"], made["node_uuid"]) == ("allocating", None)
    return await api.get(f"/v1/allocations/{made['uuid']}")


async def test_a_claim_gets_a_node_and_the_node_an_instance(api: Api) -> None:
    uuid = await ready(api, "n1", traits=["CUSTOM_A", "CUSTOM_B"])
    made = await claim(api, name="web", traits=["CUSTOM_A"])
    assert (made["state"], made["node_uuid"], made["last_error"]) == ("active", uuid, None)
    node = await api.get("/v1/nodes/n1")
    assert (node["instance_uuid"], node["allocation_uuid"], node["instance_info"]) == (made["uuid"], made["uuid"], {"traits": ["CUSTOM_A"]})
    assert await api.get("/v1/allocations/web") == made
    assert await api.get("/v1/nodes/n1/allocation") == made
    for query in ("node=n1", f"node={uuid}", "resource_class=rc", "state=active"):
        assert (await api.get(f"/v1/allocations?{query}"))["allocations"] == [made], query
    assert (await api.get("/v1/allocations?state=error"))["allocations"] == []
    assert (await api.ask("DELETE", "/v1/allocations/web")).status == 204
    node = await api.get("/v1/nodes/n1")
    assert (node["instance_uuid"], node["allocation_uuid"], node["instance_info"]) == (None, None, {})


async def test_a_claim_that_nothing_fits_says_why(api: Api) -> None:
    made = await claim(api)
    assert made["state"] == "error"
    assert made["last_error"] == f"Failed to process allocation {made['uuid']}: no available nodes match the resource class rc."
    await ready(api, "n1")
    assert "requested traits CUSTOM_A" in (await claim(api, traits=["CUSTOM_A"]))["last_error"]
    other = (await api.node(name="n2", resource_class="rc"))["uuid"]
    assert "none of the requested nodes" in (await claim(api, candidate_nodes=["n2"]))["last_error"]
    for fields in (
        {"maintenance": True},
        {"power_state": None},
        {"resource_class": "x"},
        {"instance_uuid": other},
        {"provision_state": "manageable"},
    ):
        await api.force(other, **{"provision_state": "available", "power_state": "power off", **fields})
        assert (await claim(api, candidate_nodes=["n2"]))["state"] == "error", fields
        await api.force(other, maintenance=False, resource_class="rc", instance_uuid=None)


async def test_owners_get_their_own_and_names_come_first(api: Api) -> None:
    for name in ("a", "b", "c"):
        await ready(api, name)
    mine = await ready(api, "mine", owner="me")
    assert (await claim(api, owner="me"))["node_uuid"] == mine
    wanted = (await api.get("/v1/nodes/b"))["uuid"]
    assert (await claim(api, name="b"))["node_uuid"] == wanted


async def test_a_hundred_claims_share_fifty_nodes(api: Api) -> None:
    for number in range(50):
        await ready(api, f"n{number}")
    made = await asyncio.gather(*(claim(api) for _ in range(100)))
    given = [m["node_uuid"] for m in made if m["state"] == "active"]
    assert len(given) == len(set(given)) == 50
    assert len([m for m in made if m["state"] == "error"]) == 50


async def test_claims_that_make_no_sense_are_refused(api: Api) -> None:
    await ready(api, "n1")
    rows: list[tuple[dict[str, Any], str, int]] = [
        ({}, "1.115", 400),
        ({"resource_class": "rc", "candidate_nodes": ["nobody"]}, "1.115", 400),
        ({"resource_class": "rc", "traits": ["nope"]}, "1.115", 400),
        ({"resource_class": "rc", "name": "a b"}, "1.115", 400),
        ({"resource_class": "x" * 81}, "1.115", 400),
        ({"resource_class": "rc", "junk": 1}, "1.115", 400),
        ({"resource_class": "rc", "owner": "o"}, "1.59", 406),
        ({"node": "n1"}, "1.57", 400),
        ({"node": "n1"}, "1.115", 400),
        ({"node": "nobody"}, "1.115", 400),
        ({"resource_class": "rc"}, "1.51", 405),
    ]
    for body, version, status in rows:
        assert (await api.ask("POST", "/v1/allocations", body, version=version)).status == status, body
    assert (await api.ask("GET", "/v1/allocations", version="1.51")).status == 404
    assert (await api.ask("GET", "/v1/nodes/n1/allocation")).status == 404


async def test_a_claim_is_filled_in_for_a_node_that_is_in_use(api: Api) -> None:
    uuid = await ready(api, "n1")
    instance = "11111111-2222-3333-4444-555555555555"
    await api.force(uuid, provision_state="active", instance_uuid=instance)
    made = await api.make("allocations", node="n1", name="web")
    assert (made["uuid"], made["state"], made["node_uuid"], made["resource_class"]) == (instance, "active", uuid, "rc")
    assert (await api.ask("POST", "/v1/allocations", {"node": "n1"})).status == 409
    assert (await api.ask("DELETE", "/v1/allocations/web")).status == 409
    await api.force(uuid, maintenance=True)
    assert (await api.ask("DELETE", "/v1/nodes/n1/allocation")).status == 204


async def test_a_claim_is_changed_in_name_and_extra_only(api: Api) -> None:
    await ready(api, "n1")
    made = await claim(api)
    path = f"/v1/allocations/{made['uuid']}"
    assert (await api.ask("PATCH", path, [{"op": "add", "path": "/name", "value": "new"}])).json["name"] == "new"
    assert (await api.ask("PATCH", path, [{"op": "add", "path": "/extra/a", "value": 1}])).json["extra"] == {"a": 1}
    assert (await api.ask("PATCH", path, [{"op": "add", "path": "/resource_class", "value": "x"}])).status == 400
    assert (await api.ask("PATCH", path, [], version="1.56")).status == 405


async def test_a_claim_goes_with_its_instance(api: Api) -> None:
    uuid = await ready(api, "n1")
    made = await claim(api)
    assert (await api.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "remove", "path": "/instance_uuid"}])).status == 200
    assert (await api.ask("GET", f"/v1/allocations/{made['uuid']}")).status == 404
    assert (await api.get(f"/v1/nodes/{uuid}"))["allocation_uuid"] is None


async def test_a_claim_that_a_crash_left_open_is_decided(api: Api) -> None:
    uuid = await ready(api, "n1")
    left = await api.fleet.allocations.create({"resource_class": "rc"}, SYSTEM)
    await api.fleet.allocations.resume()
    found = api.house.store.table(Allocation).get(left.uuid)
    assert found is not None
    assert (found.state, found.node_uuid) == ("active", uuid)
