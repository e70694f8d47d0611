"""Discovery: machines that nobody enrolled, and who may not discover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from metald.config import Inspection
from metald.model import Node, Port
from metald.model.inventory import Inventory
from tests.inspection.test_inspection_wire import MAC, URL, inventory
from tests.support.api import Api, api_settings, serving

SECRET = "a-long-shared-secret"


@pytest_asyncio.fixture
async def open_api(tmp_path: Path) -> AsyncIterator[Api]:
    inspection = Inspection(discovery=True, discovery_secret=SECRET, discovery_driver="fake-hardware")
    async with serving(tmp_path, msgspec.structs.replace(api_settings(), inspection=inspection)) as served:
        yield served


async def test_a_machine_becomes_a_node_with_ports_and_inventory(open_api: Api) -> None:
    answer = await open_api.ask("POST", f"{URL}?discovery_secret={SECRET}", {"inventory": inventory()}, version="1.1")
    assert answer.status == 202, answer.body
    node = await open_api.get(f"/v1/nodes/{answer.json['uuid']}")
    assert (node["provision_state"], node["driver"]) == ("enroll", "fake-hardware")
    assert node["properties"]["cpu_arch"] == "x86_64"
    assert node["extra"]["discovered_at"]
    assert [port.address for port in open_api.house.store.table(Port)] == [MAC]
    found = await open_api.get(f"/v1/nodes/{node['uuid']}/inventory")
    assert found["inventory"]["cpu"]["count"] == 8


@pytest.mark.parametrize("query", ["", "?discovery_secret=wrong", "?discovery_secret="])
async def test_nobody_discovers_without_the_secret(open_api: Api, query: str) -> None:
    assert (await open_api.ask("POST", f"{URL}{query}", {"inventory": inventory()}, version="1.1")).status == 404
    assert not list(open_api.house.store.table(Node))


async def test_discovery_is_off_by_default(api: Api) -> None:
    assert (await api.ask("POST", f"{URL}?discovery_secret=", {"inventory": inventory()}, version="1.1")).status == 404
    assert (await api.ask("POST", f"{URL}?discovery_secret={SECRET}", {"inventory": inventory()}, version="1.1")).status == 404


async def test_a_machine_is_discovered_once(open_api: Api) -> None:
    url = f"{URL}?discovery_secret={SECRET}"
    answers = await asyncio.gather(*(open_api.ask("POST", url, {"inventory": inventory()}, version="1.1") for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [202, 409, 409, 409, 409]
    assert len(list(open_api.house.store.table(Node))) == 1
    assert len(list(open_api.house.store.table(Inventory))) == 1


async def test_a_machine_whose_bmc_is_known_is_not_discovered(open_api: Api) -> None:
    await open_api.node(driver_info={"ipmi_address": "192.0.2.50"})
    told = inventory(bmc_address="192.0.2.50")
    assert (await open_api.ask("POST", f"{URL}?discovery_secret={SECRET}", {"inventory": told}, version="1.1")).status == 409


async def test_what_hooks_refuse_becomes_no_node(open_api: Api) -> None:
    body = {"inventory": inventory(), "error": "no disks"}
    answer = await open_api.ask("POST", f"{URL}?discovery_secret={SECRET}", body, version="1.1")
    assert answer.status >= 400
    assert not list(open_api.house.store.table(Node))
