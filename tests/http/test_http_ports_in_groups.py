"""Ports in port groups: all of one group are on one physical network, which they take from each other."""

from __future__ import annotations

from typing import Any

import pytest_asyncio

from tests.support.api import Api


class Cards:
    """A node with a port group."""

    def __init__(self, api: Api, node: str, group: str) -> None:
        self.api = api
        self.node = node
        self.group = group
        self._made = 0

    async def port(self, status: int = 201, **fields: Any) -> Any:
        """Make a port of the node."""
        self._made += 1
        body = {"node_uuid": self.node, "address": f"52:54:00:00:02:{self._made:02x}", **fields}
        answer = await self.api.ask("POST", "/v1/ports", body)
        assert answer.status == status, answer.body
        return answer.json

    async def patch(self, path: str, field: str, value: Any, *, version: str = "1.115") -> tuple[int, str]:
        answer = await self.api.ask("PATCH", path, [{"op": "add", "path": f"/{field}", "value": value}], version=version)
        return answer.status, "" if answer.status == 200 else answer.fault


@pytest_asyncio.fixture
async def cards(api: Api) -> Cards:
    node = (await api.node())["uuid"]
    return Cards(api, node, (await api.make("portgroups", node_uuid=node, name="bond0"))["uuid"])


async def test_a_group_takes_the_network_of_its_first_port(api: Api, cards: Cards) -> None:
    await cards.port(portgroup_uuid=cards.group, physical_network="one")
    assert (await api.get("/v1/portgroups/bond0"))["physical_network"] == "one"
    refused = await cards.port(409, portgroup_uuid=cards.group, physical_network="two")
    assert "cannot become a member of port group" in refused["error_message"]
    await cards.port(409, portgroup_uuid=cards.group)
    await cards.port(portgroup_uuid=cards.group, physical_network="one")


async def test_a_port_that_joins_brings_its_network(api: Api, cards: Cards) -> None:
    port = (await cards.port(physical_network="one"))["uuid"]
    assert (await cards.patch(f"/v1/ports/{port}", "portgroup_uuid", "bond0"))[0] == 200
    assert (await api.get("/v1/portgroups/bond0"))["physical_network"] == "one"


async def test_an_empty_group_with_a_network_takes_ports_of_it_alone(cards: Cards) -> None:
    assert (await cards.patch("/v1/portgroups/bond0", "physical_network", "one"))[0] == 200
    await cards.port(409, portgroup_uuid=cards.group, physical_network="two")
    await cards.port(portgroup_uuid=cards.group, physical_network="one")


async def test_the_network_of_a_port_in_a_group_is_the_groups(api: Api, cards: Cards) -> None:
    port = (await cards.port(portgroup_uuid=cards.group, physical_network="one"))["uuid"]
    status, fault = await cards.patch(f"/v1/ports/{port}", "physical_network", "two")
    assert status == 400
    assert "physical_network cannot be changed while the port belongs to a portgroup." in fault
    assert (await cards.patch("/v1/portgroups/bond0", "physical_network", "two"))[0] == 200
    assert (await api.get(f"/v1/ports/{port}"))["physical_network"] == "two"


async def test_before_groups_had_networks_a_single_port_could_change_its_own(cards: Cards) -> None:
    port = (await cards.port(portgroup_uuid=cards.group, physical_network="one"))["uuid"]
    assert await cards.patch(f"/v1/ports/{port}", "physical_network", "one", version="1.101") == (200, "")
