"""The one door for nodes, without HTTP: waiting for busy nodes, and changes that meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from metald.errors import Busy, Duplicate, NotFound
from metald.model import Event, Node
from metald.model.caller import Caller
from metald.statemachine.fleet import Fleet
from metald.store.changes import Change
from tests.support.api import api_settings
from tests.support.house import House

ME = Caller(user="me")


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, api_settings(lock_wait=0.2)).open() as opened:
        yield opened


def fleet_of(house: House) -> Fleet:
    return Fleet(house.store, house.registry(), house.settings)


async def lock(house: House, uuid: str, holder: str | None) -> None:
    event = Event(type="node.workflow", node_uuid=uuid)
    await house.store.commit(Change(save=[house.node(uuid).changed(reservation=holder)], events=[event]))


async def test_a_change_waits_for_a_short_workflow(house: House) -> None:
    nodes = fleet_of(house).nodes
    uuid = (await nodes.create({"driver": "fake-hardware"}, ME)).uuid
    await lock(house, uuid, "test")
    waiting = asyncio.create_task(nodes.update(uuid, lambda _node: {"driver_info": {"a": 1}}, ME))
    await asyncio.sleep(0)
    assert (await nodes.update(uuid, lambda _node: {"extra": {"b": 1}}, ME)).extra == {"b": 1}
    assert not waiting.done()
    await lock(house, uuid, None)
    node = await waiting
    assert (node.driver_info, node.extra) == ({"a": 1}, {"b": 1})


async def test_a_change_gives_up_on_a_long_workflow(house: House) -> None:
    nodes = fleet_of(house).nodes
    uuid = (await nodes.create({"driver": "fake-hardware"}, ME)).uuid
    await lock(house, uuid, "test")
    for call in (nodes.update(uuid, lambda _node: {"properties": {"a": 1}}, ME), nodes.delete(uuid, ME)):
        with pytest.raises(Busy, match="is locked by host test, please retry"):
            await call
    assert house.node(uuid).properties == {}


async def test_changes_of_one_node_do_not_overwrite_each_other(house: House) -> None:
    nodes = fleet_of(house).nodes
    uuid = (await nodes.create({"driver": "fake-hardware"}, ME)).uuid

    async def add(number: int) -> None:
        await nodes.update(uuid, lambda node: {"extra": {**node.extra, str(number): number}}, ME)

    await asyncio.gather(*(add(number) for number in range(50)))
    assert house.node(uuid).extra == {str(number): number for number in range(50)}


async def test_every_change_leaves_an_event_and_no_change_leaves_none(house: House) -> None:
    nodes = fleet_of(house).nodes
    uuid = (await nodes.create({"driver": "fake-hardware", "name": "n"}, ME)).uuid
    await nodes.update(uuid, lambda _node: {"extra": {"password": "x"}}, ME)
    await nodes.update(uuid, lambda _node: {"name": "n"}, ME)
    await nodes.set_maintenance(uuid, True, "r", ME)
    await nodes.delete(uuid, ME)
    found = await house.store.events(node_uuid=uuid)
    assert [(e.type, e.user) for e in found] == [
        ("node.create", "me"), ("node.update", "me"), ("node.maintenance", "me"), ("node.delete", "me"),
    ]  # fmt: skip
    assert found[1].data == {"fields": ["extra"]}


async def test_a_name_is_taken_once(house: House) -> None:
    nodes = fleet_of(house).nodes
    made: list[Any] = await asyncio.gather(
        *(nodes.create({"driver": "fake-hardware", "name": "n"}, ME) for _ in range(10)), return_exceptions=True
    )
    assert len([m for m in made if isinstance(m, Node)]) == 1
    assert len([m for m in made if isinstance(m, Duplicate)]) == 9


async def test_a_node_that_is_deleted_meanwhile_is_not_found(house: House) -> None:
    fleet = fleet_of(house)
    uuid = (await fleet.nodes.create({"driver": "fake-hardware"}, ME)).uuid
    port = await fleet.ports.create({"node_uuid": uuid, "address": "52:54:00:00:00:01"}, ME)
    await fleet.nodes.delete(uuid, ME)
    for call in (
        fleet.nodes.update(uuid, lambda _node: {"extra": {}}, ME),
        fleet.nodes.delete(uuid, ME),
        fleet.nodes.set_maintenance(uuid, True, None, ME),
        fleet.nodes.set_traits(uuid, lambda traits: traits, ME),
        fleet.ports.delete(port.uuid, ME),
    ):
        with pytest.raises(NotFound):
            await call
