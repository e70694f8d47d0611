"""What agents do beside deploying and cleaning: rescue, logical disks, and staying for the next work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from metald.model import Verb
from metald.model.caller import SYSTEM
from tests.support.agent_house import CLEAN, AgentHouse, P, second_boot, settings
from tests.support.scripted_agent import ScriptedAgent

# -- rescue


async def rescued(house: AgentHouse) -> str:
    uuid = await house.machine(provision_state=P.ACTIVE, rescue_interface="agent")
    await house.conductor.provision(uuid, Verb.RESCUE, SYSTEM, rescue_password="let me in")
    await house.until(uuid, P.RESCUE_WAIT)
    return uuid


async def test_a_rescue_tells_the_agent_the_hash_of_the_password(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await rescued(house)
    await house.boots(agent, uuid, P.RESCUE_WAIT)
    node = await house.until(uuid, P.RESCUE)
    told = dict(agent.given)["rescue.finalize_rescue"]
    assert told["hashed"] is True
    assert told["rescue_password"].startswith("$6$")
    assert "let me in" not in str(msgspec.to_builtins(house.workflows(uuid))) + str(node)
    assert "hashed_rescue_password" not in node.instance_info
    node = await house.do(uuid, Verb.UNRESCUE, P.ACTIVE)
    assert node.power_state == "power on"


async def test_a_rescue_whose_agent_may_have_been_told_is_booted_again(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    uuid = await rescued(house)
    agent.lose_answers = 1
    stopping: list[asyncio.Task[None]] = []

    async def told(_: Mapping[str, Any]) -> Any:
        stopping.append(asyncio.ensure_future(agent.stop()))
        return {}

    agent.answers["rescue.finalize_rescue"] = told
    await house.boots(agent, uuid, P.RESCUE_WAIT)
    async with await second_boot(tmp_path) as second:
        await house.boots(second, uuid, P.RESCUE_WAIT)
        await house.until(uuid, P.RESCUE)
        assert second.names() == ["rescue.finalize_rescue"]
    await asyncio.gather(*stopping, return_exceptions=True)


async def test_a_rescue_that_is_given_up_leaves_no_password_and_no_ramdisk(house: AgentHouse) -> None:
    uuid = await rescued(house)
    await house.conductor.provision(uuid, Verb.ABORT, SYSTEM)
    node = await house.until(uuid, P.RESCUE_FAILED)
    assert "hashed_rescue_password" not in node.instance_info
    assert node.power_state == "power off"


# -- RAID


async def test_the_agent_makes_and_removes_logical_disks(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    root = {"size_gb": 100, "raid_level": "1", "is_root_volume": True}
    wanted = {"logical_disks": [root, {"size_gb": "MAX", "raid_level": "0"}]}

    async def make(params: Mapping[str, Any]) -> Any:
        asked = params["node"]["target_raid_config"]["logical_disks"]
        return {"logical_disks": [{**disk, "root_device_hint": {"wwn": "0x1"}} for disk in asked]}

    steps = [{"step": name, "interface": "raid", "priority": 0} for name in ("create_configuration", "delete_configuration")]
    agent.steps["clean"] = steps
    agent.answers["clean.execute_clean_step"] = make
    uuid = await house.machine(
        provision_state=P.MANAGEABLE, raid_interface="agent", target_raid_config=wanted, properties={"capabilities": "boot_mode:bios"}
    )
    only_root = {"interface": "raid", "step": "create_configuration", "args": {"create_nonroot_volumes": False}}
    await house.conductor.provision(uuid, Verb.CLEAN, SYSTEM, clean_steps=[only_root])
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    node = await house.until(uuid, P.MANAGEABLE)
    assert [disk["raid_level"] for disk in node.raid_config["logical_disks"]] == ["1"]
    assert node.properties["root_device"] == {"wwn": "0x1"}
    assert (node.properties["local_gb"], node.properties["capabilities"]) == (100, "boot_mode:bios,raid_level:1")
    await house.conductor.provision(uuid, Verb.CLEAN, SYSTEM, clean_steps=[{"interface": "raid", "step": "delete_configuration"}])
    async with await second_boot(tmp_path) as second:
        second.steps["clean"] = steps
        await house.boots(second, uuid, P.CLEAN_WAIT)
        node = await house.until(uuid, P.MANAGEABLE)
    assert node.raid_config == {}
    assert "root_device" not in node.properties


async def test_no_logical_disk_is_made_of_nothing(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine(provision_state=P.MANAGEABLE, raid_interface="agent")
    await house.conductor.provision(uuid, Verb.CLEAN, SYSTEM, clean_steps=[{"interface": "raid", "step": "create_configuration"}])
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    assert "no logical disk" in ((await house.until(uuid, P.CLEAN_FAILED)).last_error or "")


# -- fast track


async def test_an_agent_that_stays_is_used_again_without_a_boot(tmp_path: Path, agent: ScriptedAgent) -> None:
    async with AgentHouse(tmp_path / "house", settings(fast_track=True)).living() as house:
        agent.steps["clean"] = CLEAN
        uuid = await house.machine(provision_state=P.MANAGEABLE)
        await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
        await house.boots(agent, uuid, P.CLEAN_WAIT)
        node = await house.until(uuid, P.AVAILABLE)
        assert node.power_state == "power on"
        await house.do(uuid, Verb.DEPLOY, P.ACTIVE)
        assert "standby.prepare_image" in agent.names()
        assert "agent_secret_token" not in house.node(uuid).driver_internal_info


async def test_an_agent_that_has_gone_is_booted_again(tmp_path: Path, agent: ScriptedAgent) -> None:
    async with AgentHouse(tmp_path / "house", settings(fast_track=True)).living() as house:
        uuid = await house.machine(provision_state=P.MANAGEABLE)
        await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
        await house.boots(agent, uuid, P.CLEAN_WAIT)
        await house.until(uuid, P.AVAILABLE)
        await agent.stop()
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
        async with await second_boot(tmp_path) as second:
            await house.boots(second, uuid, P.WAIT_CALL_BACK)
            await house.until(uuid, P.ACTIVE)
            assert "standby.prepare_image" in second.names()
