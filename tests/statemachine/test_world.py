"""What the world tells: agents, booting machines, observed power."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.errors import BmcUnreachable, Invalid, NotFound, Unavailable
from metald.model import Event, Fault, Node, Port, PowerState, ProvisionState
from metald.statemachine.agents import MASKED, Agents
from metald.statemachine.power_sync import PowerSync
from metald.statemachine.sightings import Sightings, boot_id
from metald.store.changes import Change
from tests.support.house import House, settings

P = ProvisionState
MAC = "52:54:00:00:00:01"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, settings()).open() as opened:
        yield opened


async def _node_with_port(house: House, **fields: object) -> Node:
    node = await house.add(**fields)
    await house.store.commit(Change(save=[Port(node_uuid=node.uuid, address=MAC)]))
    return node


async def test_an_agent_gets_its_token_once_and_heartbeats_with_it(house: House) -> None:
    agents = Agents(house.store, house.engine)
    node = await _node_with_port(house, provision_state=P.WAIT_CALL_BACK)
    found, token = await agents.lookup(addresses=[MAC], node_uuid=None)
    assert found.uuid == node.uuid
    assert len(token) >= 32
    assert (await agents.lookup(addresses=[], node_uuid=node.uuid))[1] == MASKED
    await agents.heartbeat(
        node.uuid, callback_url="https://h:9999", agent_version="13", agent_token=token, agent_verify_ca="PEM", agent_status="start"
    )
    info = house.node(node.uuid).driver_internal_info
    assert (info["agent_url"], info["agent_version"], info["agent_verify_ca"]) == ("https://h:9999", "13", "PEM")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"agent_token": "wrong"}, "agent token"),
        ({"agent_token": None}, "agent token"),
        ({"agent_version": None}, "agent_version"),
        ({"agent_status": "odd"}, "not known"),
        ({"callback_url": "ftp://x"}, "not an HTTP URL"),
        ({"callback_url": "https://other"}, "callback_url"),
        ({"agent_verify_ca": "other"}, "agent_verify_ca"),
    ],
)
async def test_heartbeats_that_are_refused(house: House, change: dict[str, object], text: str) -> None:
    agents = Agents(house.store, house.engine)
    info = {"agent_secret_token": "t", "agent_url": "https://h", "agent_verify_ca": "PEM"}
    node = await house.add(provision_state=P.WAIT_CALL_BACK, driver_internal_info=info)
    good = {"callback_url": "https://h", "agent_version": "13", "agent_token": "t", "agent_verify_ca": "PEM"}
    with pytest.raises(Invalid, match=text):
        await agents.heartbeat(node.uuid, **{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await agents.heartbeat("nobody", **good)  # type: ignore[arg-type]


async def test_lookups_that_find_nothing_all_say_the_same(house: House) -> None:
    agents = Agents(house.store, house.engine)
    node = await _node_with_port(house, provision_state=P.AVAILABLE)
    texts = set()
    for addresses, uuid in (([MAC], None), (["52:54:00:00:00:02"], None), ([], None), ([], "nobody"), ([], node.uuid)):
        with pytest.raises(NotFound) as error:
            await agents.lookup(addresses=addresses, node_uuid=uuid)
        texts.add(str(error.value))
    assert len(texts) == 1


async def test_sightings_become_events_and_ramdisks_are_remembered(house: House) -> None:
    sightings = Sightings(house.store, house.engine)
    node = await _node_with_port(house, provision_state=P.DEPLOYING, driver_internal_info={"boot_token": "secret"})
    assert sightings.node_by_mac(MAC) == sightings.node(node.uuid)
    assert sightings.node_by_mac("52:54:00:00:00:09") is None
    assert [p.address for p in sightings.ports(node.uuid)] == [MAC]
    writing = asyncio.create_task(sightings.run())
    arrived = asyncio.Event()
    house.store.subscribe(lambda events: arrived.set() if any(e.type == "node.http" for e in events) else None)
    sightings.seen("node.http", node_uuid=node.uuid, data={"file": "boot.ipxe", "bytes": 5})
    await arrived.wait()
    writing.cancel()
    await sightings.ramdisk_called(node.uuid, {"address": "10.0.0.2", "port": 22})
    await sightings.ramdisk_called(node.uuid, {"address": "10.0.0.2", "port": 22})
    ramdisk = house.node(node.uuid).driver_internal_info["ramdisk"]
    assert ramdisk == {"address": "10.0.0.2", "port": 22, "boot": boot_id(house.node(node.uuid))}
    assert "secret" not in ramdisk["boot"]


async def test_the_first_to_take_the_credentials_holds_them(house: House) -> None:
    sightings = Sightings(house.store, house.engine)
    node = await house.add(provision_state=P.DEPLOYING)
    assert await sightings.credentials_taken(node.uuid, "10.0.0.2") == "10.0.0.2"
    assert await sightings.credentials_taken(node.uuid, "10.0.0.3") == "10.0.0.2"


async def test_power_sync_records_what_it_sees(house: House) -> None:
    seen = await house.add(provision_state=P.ACTIVE, power_state=PowerState.OFF)
    passed_over = await house.add(provision_state=P.ACTIVE, power_state=PowerState.OFF, maintenance=True)
    dead = await house.add(provision_state=P.ACTIVE, driver="fake-hardware", power_state=PowerState.OFF)
    asked: list[str] = []
    silent = {dead.uuid}

    async def look(ctx: object) -> PowerState:
        uuid = ctx.node.uuid  # type: ignore[attr-defined]
        asked.append(uuid)
        if uuid in silent:
            raise BmcUnreachable("No answer.")
        return PowerState.ON

    house.engine._registry.interface("power", "fake").get_power_state = look  # type: ignore[attr-defined]
    changed = asyncio.Event()
    house.store.subscribe(lambda events: changed.set() if any(_seen(e) for e in events) else None)
    sync = asyncio.create_task(PowerSync(house.store, house.engine._registry, 0.01, contextlib.nullcontext).run())
    await changed.wait()
    while not house.node(dead.uuid).maintenance:
        await asyncio.sleep(0.01)
    struck = house.node(dead.uuid)
    assert (struck.maintenance, struck.fault) == (True, Fault.POWER)
    assert "3 times in a row: No answer." in (struck.maintenance_reason or "")
    silent.clear()
    while house.node(dead.uuid).fault:
        await asyncio.sleep(0.01)
    back = house.node(dead.uuid)
    assert (back.maintenance, back.maintenance_reason, back.power_state) == (False, None, PowerState.ON)
    sync.cancel()
    await asyncio.gather(sync, return_exceptions=True)
    assert house.node(seen.uuid).power_state is PowerState.ON
    assert house.node(passed_over.uuid).power_state is PowerState.OFF
    assert house.node(dead.uuid).last_error is None
    assert passed_over.uuid not in asked


def _seen(event: Event) -> bool:
    return event.type == "node.power_seen" and event.data["to"] == "power on"


async def test_a_dead_bmc_is_recorded_also_when_the_store_refused_it_at_first(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = await house.add(provision_state=P.ACTIVE, driver="fake-hardware")
    gone = await house.add(provision_state=P.ACTIVE, driver="fake-hardware")
    sync = PowerSync(house.store, house.engine._registry, 0.01, contextlib.nullcontext)

    async def look(_ctx: object) -> PowerState:
        raise BmcUnreachable("No answer.")

    house.engine._registry.interface("power", "fake").get_power_state = look  # type: ignore[attr-defined]
    commit = house.store.commit
    refusals: list[Change] = []

    async def commit_later(change: Change) -> Any:
        if len(refusals) < 4:
            refusals.append(change)
            raise Unavailable("The disk is full.")
        return await commit(change)

    monkeypatch.setattr(house.store, "commit", commit_later)
    running = asyncio.create_task(sync.run())
    while not (house.node(dead.uuid).fault and house.node(gone.uuid).fault):
        await asyncio.sleep(0.01)
    monkeypatch.undo()
    await house.store.commit(Change(delete=[house.node(gone.uuid)]))
    while gone.uuid in sync._strikes:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert house.node(dead.uuid).fault == Fault.POWER


async def test_power_sync_that_is_turned_off_ends_at_once(house: House) -> None:
    await PowerSync(house.store, house.engine._registry, 0, contextlib.nullcontext).run()
