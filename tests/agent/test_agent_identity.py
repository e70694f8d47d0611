"""Which agent is believed: tokens, certificates, addresses, and machines that lie about themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.agent.client import AgentClient, AgentUnreachable, CommandFailed, Target
from metald.drivers.base import Done
from metald.errors import Invalid, NotFound
from metald.model import Event, Port, Verb
from metald.model.caller import SYSTEM
from metald.statemachine.agents import MASKED, Agents
from metald.store.changes import Change
from tests.support.agent_house import AgentHouse, P, settings
from tests.support.scripted_agent import ScriptedAgent


async def test_what_runs_before_the_machine_is_started_gets_no_token(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine()
    entered, goes_on = asyncio.Event(), asyncio.Event()

    async def prepare(_: Any) -> Done:
        entered.set()
        await goes_on.wait()
        return Done()

    house.direct.prepare = prepare  # type: ignore[method-assign]
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await entered.wait()
    with pytest.raises(NotFound):
        await house.agents.lookup(addresses=[], node_uuid=uuid)
    goes_on.set()
    await house.boots(agent, uuid, P.WAIT_CALL_BACK)
    await house.until(uuid, P.ACTIVE)


async def test_a_token_goes_to_a_new_boot_only_when_the_old_one_is_gone(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine(provision_state=P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    ask = house.agents.lookup
    assert (await ask(addresses=[], node_uuid=uuid, called_from="127.0.0.1"))[1] == MASKED
    await agent.stop()
    assert (await ask(addresses=[], node_uuid=uuid, called_from="192.0.2.9"))[1] == MASKED
    node, token = await ask(addresses=[], node_uuid=uuid, called_from="127.0.0.1")
    assert token not in (MASKED, agent.token)
    assert "agent_url" not in node.driver_internal_info
    with pytest.raises(Invalid, match="token"):
        await agent.call(house.agents, uuid, lookup=False)


async def test_a_machine_that_booted_again_with_another_address_gets_a_token(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine(provision_state=P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)

    async def ask() -> str | None:
        return (await house.agents.lookup(addresses=[], node_uuid=uuid, called_from="127.0.0.9"))[1]

    async def fetched(client: str) -> None:
        data = {"client": client, "file": "boot/ipxe", "bytes": 1, "seconds": 0.1, "status": 200}
        await house.store.commit(Change(events=[Event(type="node.http", node_uuid=uuid, data=data)]))

    await fetched("127.0.0.9")
    assert await ask() == MASKED  # the first agent answers
    await agent.stop()
    assert await ask() not in (MASKED, None)
    assert await ask() == MASKED


async def test_a_token_whose_answer_a_crash_swallowed_is_given_anew(house: AgentHouse) -> None:
    uuid = await house.machine(provision_state=P.WAIT_CALL_BACK)
    _, first = await house.agents.lookup(addresses=[], node_uuid=uuid)
    assert (await house.agents.lookup(addresses=[], node_uuid=uuid))[1] == MASKED
    after_a_restart = Agents(house.store, house.engine, house.settings, house.direct.alive)
    assert (await after_a_restart.lookup(addresses=[], node_uuid=uuid))[1] not in (MASKED, first)


async def test_a_machine_that_lies_about_its_uuid_is_not_known(house: AgentHouse) -> None:
    mine, other = await house.machine(provision_state=P.WAIT_CALL_BACK), await house.machine(provision_state=P.WAIT_CALL_BACK)
    mac = "52:54:00:00:00:01"
    await house.store.commit(Change(save=[Port(node_uuid=mine, address=mac)]))
    with pytest.raises(NotFound):
        await house.agents.lookup(addresses=[mac], node_uuid=other)
    assert (await house.agents.lookup(addresses=[mac], node_uuid=mine))[0].uuid == mine


async def test_of_two_machines_with_one_address_only_the_first_has_a_token(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid, mac = await house.machine(provision_state=P.WAIT_CALL_BACK), "52:54:00:00:00:07"
    await house.store.commit(Change(save=[Port(node_uuid=uuid, address=mac)]))
    await agent.call(house.agents, uuid)
    _, second = await house.agents.lookup(addresses=[mac], node_uuid=None, called_from="192.0.2.66")
    assert second == MASKED
    with pytest.raises(Invalid, match="token"):
        await house.agents.heartbeat(uuid, callback_url="https://192.0.2.66:9999", called_from="192.0.2.66", agent_token=second)
    assert house.node(uuid).driver_internal_info["agent_url"] == agent.url
    told = [event for event in await house.conductor.timeline(uuid) if event.type == "node.agent_token"]
    assert told[-1].data["address"] == "192.0.2.66"


async def test_one_machine_with_cards_of_two_nodes_is_neither(house: AgentHouse) -> None:
    nodes = [await house.machine(provision_state=P.WAIT_CALL_BACK) for _ in range(2)]
    macs = ["52:54:00:00:00:08", "52:54:00:00:00:09"]
    await house.store.commit(Change(save=[Port(node_uuid=uuid, address=mac) for uuid, mac in zip(nodes, macs, strict=True)]))
    with pytest.raises(NotFound):
        await house.agents.lookup(addresses=macs, node_uuid=None)


async def test_a_heartbeat_with_another_certificate_or_url_is_refused(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    uuid = await house.machine(provision_state=P.WAIT_CALL_BACK)
    await agent.call(house.agents, uuid)
    other = ScriptedAgent(tmp_path / "other").pem
    for more, field in (({"agent_verify_ca": other}, "agent_verify_ca"), ({"callback_url": "https://127.0.0.1:1"}, "callback_url")):
        told = {"callback_url": agent.url, "agent_version": "13.0.0", "agent_token": agent.token, "called_from": "127.0.0.1", **more}
        with pytest.raises(Invalid) as refused:
            await house.agents.heartbeat(uuid, **told)
        assert refused.value.field == field
    assert house.node(uuid).driver_internal_info["agent_verify_ca"] == agent.pem


async def test_a_heartbeat_is_not_lost_to_a_workflow_that_owns_the_node(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine(provision_state=P.CLEANING)
    async with house.store.owning(uuid):
        beat = asyncio.ensure_future(agent.call(house.agents, uuid))
        await asyncio.sleep(0)
        assert not beat.done()
    await beat
    assert house.node(uuid).driver_internal_info["agent_url"] == agent.url


async def test_a_heartbeat_in_maintenance_is_noted_and_goes_no_further(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine()
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    node = await house.until(uuid, P.WAIT_CALL_BACK)
    await house.store.commit(Change(save=[node.changed(maintenance=True)]))
    await agent.call(house.agents, uuid)
    node = house.node(uuid)
    assert (node.provision_state, node.driver_internal_info["agent_url"]) == (P.WAIT_CALL_BACK, agent.url)
    assert agent.names() == []
    await house.store.commit(Change(save=[node.changed(maintenance=False)]))
    await agent.call(house.agents, uuid, lookup=False)
    await house.until(uuid, P.ACTIVE)


async def test_a_flood_of_heartbeats_is_not_written(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine(provision_state=P.CLEANING)
    await agent.call(house.agents, uuid)
    version = house.node(uuid).version
    for _ in range(200):
        await agent.call(house.agents, uuid, lookup=False)
    assert house.node(uuid).version - version < 50


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254:80", "https://[::]:1", "https://224.0.0.1:9999", "https://127.0.0.1:9999", "http://192.0.2.7:9999"]
)
async def test_callback_urls_that_point_inside_are_refused(house: AgentHouse, url: str) -> None:
    uuid = await house.machine(provision_state=P.WAIT_CALL_BACK)
    _, token = await house.agents.lookup(addresses=[], node_uuid=uuid)
    with pytest.raises(Invalid) as refused:
        await house.agents.heartbeat(uuid, callback_url=url, called_from="192.0.2.7", agent_token=token, agent_version="13")
    assert refused.value.field == "callback_url"


async def test_an_agent_is_called_only_where_it_called_from(house: AgentHouse) -> None:
    uuid = await house.machine()
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.until(uuid, P.WAIT_CALL_BACK)
    _, token = await house.agents.lookup(addresses=[], node_uuid=uuid)
    await house.agents.heartbeat(
        uuid, callback_url="https://192.0.2.7:9999", called_from="192.0.2.8", agent_token=token, agent_version="13"
    )
    node = await house.until(uuid, P.DEPLOY_FAILED)
    assert "agent.callback_networks" in (node.last_error or "")


async def test_another_certificate_is_not_spoken_to(agent: ScriptedAgent, tmp_path: Path) -> None:
    other = ScriptedAgent(tmp_path / "other")
    agent.token = "t" * 43
    client = AgentClient(settings().agent)
    try:
        assert await client.commands(Target(agent.url, agent.token, agent.pem, "n")) == []
        with pytest.raises(AgentUnreachable, match="certificate"):
            await client.commands(Target(agent.url, agent.token, other.pem, "n"))
        with pytest.raises(AgentUnreachable):
            await client.commands(Target(agent.url, agent.token, "", "n"))
        with pytest.raises(CommandFailed, match="token"):
            await client.commands(Target(agent.url, "stale", agent.pem, "n"))
    finally:
        await client.close()
