"""The deploy interface `direct` before an agent that does what the test says: what is told to it, and bad luck of every kind."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metald.errors import Invalid
from metald.model import PowerState, Verb
from metald.model.caller import SYSTEM
from tests.support.agent_house import CLEAN, IMAGE, AgentHouse, P, deploy, settings
from tests.support.scripted_agent import Failure, ScriptedAgent


async def test_a_deployment_tells_the_agent_what_to_do(house: AgentHouse, agent: ScriptedAgent) -> None:
    agent.steps["deploy"] = [{"step": "tune", "interface": "deploy", "priority": 70, "reboot_requested": False}]
    drive = {"meta_data": {"name": "n"}, "user_data": "#cloud"}
    node = await deploy(house, agent, instance_info={**IMAGE, "configdrive": drive}, driver_info={"ipmi_password": "s3cret"})
    assert agent.names() == [
        "deploy.get_deploy_steps",
        "standby.prepare_image",
        "deploy.execute_deploy_step",
        "standby.power_off",
    ]
    told = agent.given[1][1]
    assert told["image_info"]["urls"] == [IMAGE["image_source"]]
    assert (told["image_info"]["os_hash_algo"], told["image_info"]["os_hash_value"]) == ("sha256", "ab" * 32)
    assert (told["image_info"]["image_type"], told["image_info"]["stream_raw_images"]) == ("whole-disk", True)
    assert b"CD001" in gzip.decompress(base64.b64decode(told["configdrive"]))
    step = agent.given[2][1]
    assert (step["step"]["step"], step["deploy_version"], step["node"]["uuid"]) == ("tune", {"test": "1"}, node.uuid)
    assert "s3cret" not in str(agent.given)
    assert agent.token not in str(agent.given)
    assert "agent_secret_token" not in node.driver_internal_info


async def test_an_image_of_metalds_is_fetched_whatever_boot_interface_the_node_has(tmp_path: Path, agent: ScriptedAgent) -> None:
    """By a secret of its own, which ends with the machine's power."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "image").write_bytes(bytes(1 << 16))
    base = settings()
    images = msgspec.structs.replace(base.images, file_roots=[str(files)])
    boot = msgspec.structs.replace(base.boot, http_listen="192.0.2.1:8080")
    async with AgentHouse(tmp_path / "house", msgspec.structs.replace(base, images=images, boot=boot)).living() as house:
        node = await deploy(house, agent, instance_info={"image_source": (files / "image").as_uri(), "image_disk_format": "raw"})
    (url,) = dict(agent.given)["standby.prepare_image"]["image_info"]["urls"]
    start, token, name = url.rsplit("/", 2)
    assert (start, name, len(token)) == (f"http://192.0.2.1:8080/boot/{node.uuid}", "image", 43)
    assert "agent_image_token" not in node.driver_internal_info


async def test_a_machine_that_must_stay_on_has_its_agent_locked_down(house: AgentHouse, agent: ScriptedAgent) -> None:
    async def gone(_: Mapping[str, Any]) -> Any:
        agent.token = "another"
        return {}

    agent.answers["system.lockdown"] = gone
    node = await deploy(house, agent, disable_power_off=True)
    assert agent.names()[-2:] == ["standby.sync", "system.lockdown"]
    assert node.power_state == "power on"


@pytest.mark.parametrize("obeys", [True, False])
async def test_an_agent_has_its_time_to_power_the_machine_off(tmp_path: Path, agent: ScriptedAgent, obeys: bool) -> None:
    """Then the BMC does."""
    within = 60.0 if obeys else 0.3
    async with AgentHouse(tmp_path / "house", settings(power_off_timeout=within)).living() as house:
        uuid = await house.machine()

        async def off(_: Mapping[str, Any]) -> Any:
            if obeys:
                house.hardware.set_power(house.node(uuid), PowerState.OFF)
            return {}

        agent.answers["standby.power_off"] = off
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
        await house.boots(agent, uuid, P.WAIT_CALL_BACK)
        node = await house.until(uuid, P.ACTIVE)
        told = [
            e.data["detail"]
            for e in await house.conductor.timeline(uuid)
            if e.data.get("step") == "tear_down_agent" and e.type == "node.step"
        ]
    assert told == [
        "The agent powered the machine off." if obeys else "The agent did not power the machine off within 0.3 s; the BMC does."
    ]
    assert node.power_state == "power on"


async def test_a_partition_image_gets_a_loader(house: AgentHouse, agent: ScriptedAgent) -> None:
    async def uuids(_: Mapping[str, Any]) -> Any:
        return {"root uuid": "r", "efi system partition uuid": "e"}

    agent.answers["standby.get_partition_uuids"] = uuids
    info = {**IMAGE, "image_type": "partition", "root_gb": 5, "swap_mb": 128, "ephemeral_gb": 1, "capabilities": {"boot_mode": "uefi"}}
    await deploy(house, agent, instance_info=info)
    image = dict(agent.given)["standby.prepare_image"]["image_info"]
    assert (image["image_type"], image["root_mb"], image["swap_mb"], image["ephemeral_mb"]) == ("partition", 5120, 128, 1024)
    assert dict(agent.given)["image.install_bootloader"] == {
        "root_uuid": "r",
        "efi_system_part_uuid": "e",
        "prep_boot_part_uuid": None,
        "target_boot_mode": "uefi",
    }


async def test_a_disk_of_disks_gets_a_loader_on_each(house: AgentHouse, agent: ScriptedAgent) -> None:
    raid = {"logical_disks": [{"size_gb": "MAX", "raid_level": "1", "controller": "software", "is_root_volume": True}]}
    node = await deploy(house, agent, target_raid_config=raid, instance_info={**IMAGE, "image_rootfs_uuid": "f00d"})
    assert dict(agent.given)["image.install_bootloader"]["root_uuid"] == "f00d"
    assert node.driver_internal_info["root_uuid_or_disk_id"] == "f00d"


async def test_the_agent_is_told_the_boot_mode_where_it_looks(house: AgentHouse, agent: ScriptedAgent) -> None:
    await deploy(house, agent, instance_info={**IMAGE, "capabilities": '{"secure_boot": "true"}'})
    assert agent.given[0][1]["node"]["instance_info"]["deploy_boot_mode"] == "uefi"
    assert dict(agent.given)["image.install_bootloader"]["target_boot_mode"] == "uefi"


async def test_a_partition_image_without_a_loader_is_refused(tmp_path: Path) -> None:
    info = {**IMAGE, "image_type": "partition", "root_gb": 5, "capabilities": {"boot_mode": "bios"}}
    async with AgentHouse(tmp_path / "house", settings()).living() as house:
        uuid = await house.machine(instance_info=info)
        with pytest.raises(Invalid, match=r"install no boot loader for BIOS"):
            await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    async with AgentHouse(tmp_path / "other", settings(bios_bootloader=True)).living() as house:
        uuid = await house.machine(instance_info=info)
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)


async def test_a_command_whose_answer_is_lost_is_not_given_again(house: AgentHouse, agent: ScriptedAgent) -> None:
    async def write(_: Mapping[str, Any]) -> Any:
        agent.busy = 2  # for the next command
        return {"result": "prepare_image: image (i) written to device /dev/sda root_uuid=None"}

    async def steps(_: Mapping[str, Any]) -> Any:
        agent.lose_answers = 1  # of the next command
        return {}

    agent.answers["deploy.get_deploy_steps"] = steps
    agent.answers["standby.prepare_image"] = write
    await deploy(house, agent)
    assert agent.names().count("standby.prepare_image") == 1


async def test_a_restart_follows_the_command_that_runs(tmp_path: Path, agent: ScriptedAgent) -> None:
    goes_on = asyncio.Event()
    began = asyncio.Event()

    async def write(_: Mapping[str, Any]) -> Any:
        began.set()
        await goes_on.wait()
        return {"result": "done"}

    agent.answers["standby.prepare_image"] = write
    quick = settings()
    quick = msgspec.structs.replace(quick, conductor=msgspec.structs.replace(quick.conductor, drain_timeout=0.0))
    async with AgentHouse(tmp_path / "house", quick).living() as house:
        uuid = await house.machine()
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
        await house.boots(agent, uuid, P.WAIT_CALL_BACK)
        await began.wait()
    goes_on.set()
    async with AgentHouse(tmp_path / "house", quick).living() as house:
        await house.until(uuid, P.ACTIVE)
    assert agent.names().count("standby.prepare_image") == 1
    assert agent.names().count("deploy.get_deploy_steps") == 1


async def test_a_restart_looks_at_a_command_that_was_waited_for(
    tmp_path: Path, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metald.drivers.agent.commands.LOOKED_AT", 0.0)
    goes_on = asyncio.Event()

    async def write(_: Mapping[str, Any]) -> Any:
        await goes_on.wait()
        return {"result": "done"}

    agent.answers["standby.prepare_image"] = write
    async with AgentHouse(tmp_path / "house", settings()).living() as house:
        uuid = await house.machine()
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
        await house.boots(agent, uuid, P.WAIT_CALL_BACK)
        async with asyncio.timeout(20):
            while house.node(uuid).deploy_step.get("step") != "write_image" or house.node(uuid).provision_state is not P.WAIT_CALL_BACK:
                await asyncio.sleep(0.01)
    goes_on.set()
    async with AgentHouse(tmp_path / "house", settings()).living() as house:
        await house.until(uuid, P.ACTIVE)
    assert agent.names().count("standby.prepare_image") == 1


async def test_an_agent_that_works_and_whose_heartbeats_do_not_come_is_not_given_up(
    tmp_path: Path, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metald.drivers.agent.commands.LOOKED_AT", 0.0)
    waited, goes_on = asyncio.Event(), asyncio.Event()

    async def write(_: Mapping[str, Any]) -> Any:
        await goes_on.wait()
        return {"result": "done"}

    agent.answers["standby.prepare_image"] = write
    async with AgentHouse(tmp_path / "house", settings(heartbeat_timeout=1)).living() as house:
        overdue = house.engine._overdue

        async def expired(workflow: Any) -> None:
            await overdue(workflow)
            waited.set()

        house.engine._overdue = expired  # type: ignore[method-assign]
        uuid = await house.machine()
        await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
        await house.boots(agent, uuid, P.WAIT_CALL_BACK)
        await asyncio.wait_for(waited.wait(), 20)
        goes_on.set()
        await house.until(uuid, P.ACTIVE)
    assert agent.names().count("standby.prepare_image") == 1


async def test_a_failed_command_fails_the_deployment_and_its_logs_are_kept(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    async def write(_: Mapping[str, Any]) -> Any:
        raise Failure("no space left on the moon")

    async def logs(_: Mapping[str, Any]) -> Any:
        return {"system_logs": base64.b64encode(b"logs").decode()}

    agent.answers |= {"standby.prepare_image": write, "log.collect_system_logs": logs}
    uuid = await house.machine()
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.boots(agent, uuid, P.WAIT_CALL_BACK)
    node = await house.until(uuid, P.DEPLOY_FAILED)
    assert "no space left on the moon" in (node.last_error or "")
    (kept,) = (tmp_path / "logs").iterdir()
    assert kept.read_bytes() == b"logs"


async def test_an_agent_that_reports_an_error_fails_the_deployment(house: AgentHouse, agent: ScriptedAgent) -> None:
    uuid = await house.machine()
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.until(uuid, P.WAIT_CALL_BACK)
    _, token = await house.agents.lookup(addresses=[], node_uuid=uuid)
    await house.agents.heartbeat(uuid, callback_url="", agent_token=token, agent_status="error", agent_status_message="no disk")
    assert "no disk" in ((await house.until(uuid, P.DEPLOY_FAILED)).last_error or "")


async def test_an_agent_that_is_lost_is_booted_again(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def write(_: Mapping[str, Any]) -> Any:
        gone.set()
        await asyncio.Event().wait()

    agent.answers["standby.prepare_image"] = write
    uuid = await house.machine()
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.boots(agent, uuid, P.WAIT_CALL_BACK)
    await gone.wait()
    await agent.stop()
    second = await ScriptedAgent(tmp_path / "second").start()
    try:
        await house.boots(second, uuid, P.WAIT_CALL_BACK)
        await house.until(uuid, P.ACTIVE)
    finally:
        await second.stop()
    assert second.names().count("standby.prepare_image") == 1


async def test_steps_of_the_agent_are_cleaned_through_by_priority(house: AgentHouse, agent: ScriptedAgent) -> None:
    agent.steps["clean"] = CLEAN
    uuid = await house.machine(provision_state=P.MANAGEABLE)
    await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    node = await house.until(uuid, P.AVAILABLE)
    steps = [params["step"]["step"] for name, params in agent.given if name == "clean.execute_clean_step"]
    assert steps == ["first", "second"]
    assert set(node.driver_internal_info["agent_cached_clean_steps"]) == {"deploy", "raid"}


async def test_other_hardware_managers_begin_an_automated_cleaning_anew(house: AgentHouse, agent: ScriptedAgent) -> None:
    agent.steps["clean"] = CLEAN
    changed: list[str] = []

    async def clean(params: Mapping[str, Any]) -> Any:
        if params["step"]["step"] == "second" and not changed:
            changed.append("yes")
            agent.versions = {"test": "2"}
            raise Failure("changed", "CLEAN_VERSION_MISMATCH")
        return None

    agent.answers["clean.execute_clean_step"] = clean
    uuid = await house.machine(provision_state=P.MANAGEABLE)
    await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    await house.until(uuid, P.AVAILABLE)
    steps = [(params["step"]["step"], params["clean_version"]["test"]) for name, params in agent.given if "execute" in name]
    assert steps == [("first", "1"), ("second", "1"), ("first", "2"), ("second", "2")]


async def test_a_manual_cleaning_takes_the_steps_asked_for(house: AgentHouse, agent: ScriptedAgent) -> None:
    agent.steps["clean"] = CLEAN
    uuid = await house.machine(provision_state=P.MANAGEABLE)
    asked = [{"interface": "deploy", "step": "asked", "args": {"level": 3}}]
    await house.conductor.provision(uuid, Verb.CLEAN, SYSTEM, clean_steps=asked)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    await house.until(uuid, P.MANAGEABLE)
    told = dict(agent.given)["clean.execute_clean_step"]["step"]
    assert (told["step"], told["args"]) == ("asked", {"level": 3})
    await house.conductor.provision(uuid, Verb.CLEAN, SYSTEM, clean_steps=[{"interface": "deploy", "step": "nope"}])
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    node = await house.until(uuid, P.CLEAN_FAILED)
    assert "no clean step deploy.nope" in (node.last_error or "")
    assert "deploy.asked" in (node.last_error or "")


async def test_a_step_that_asks_for_a_reboot_gets_one(house: AgentHouse, agent: ScriptedAgent, tmp_path: Path) -> None:
    steps = [{**CLEAN[1], "reboot_requested": True}, CLEAN[0]]
    agent.steps["clean"] = steps
    uuid = await house.machine(provision_state=P.MANAGEABLE)
    await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    async with asyncio.timeout(20):
        while house.node(uuid).driver_internal_info.get("agent_secret_token"):
            await asyncio.sleep(0.01)
    second = await ScriptedAgent(tmp_path / "second").start()
    second.steps["clean"] = steps
    try:
        await house.boots(second, uuid, P.CLEAN_WAIT)
        await house.until(uuid, P.AVAILABLE)
    finally:
        await second.stop()
    assert [params["step"]["step"] for name, params in [*agent.given, *second.given] if "execute" in name] == ["first", "second"]


async def test_a_long_step_can_be_aborted(house: AgentHouse, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metald.drivers.agent.commands.LOOKED_AT", 0.1)
    ends = asyncio.Event()

    async def clean(_: Mapping[str, Any]) -> Any:
        await ends.wait()

    agent.steps["clean"] = CLEAN[:1]
    agent.answers["clean.execute_clean_step"] = clean
    uuid = await house.machine(provision_state=P.MANAGEABLE)

    async def waits() -> None:
        async with asyncio.timeout(20):
            while house.node(uuid).clean_step.get("step") != "second" or house.node(uuid).provision_state is not P.CLEAN_WAIT:
                await asyncio.sleep(0.01)

    await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    await waits()
    await agent.call(house.agents, uuid, lookup=False)
    await waits()
    ends.set()
    await house.until(uuid, P.AVAILABLE)  # it is seen that the step has ended; no heartbeat tells
    assert agent.names().count("clean.execute_clean_step") == 1
    ends.clear()
    await house.do(uuid, Verb.MANAGE, P.MANAGEABLE)
    await house.conductor.provision(uuid, Verb.PROVIDE, SYSTEM)
    await house.boots(agent, uuid, P.CLEAN_WAIT)
    await waits()
    await house.conductor.provision(uuid, Verb.ABORT, SYSTEM)
    assert "aborted" in ((await house.until(uuid, P.CLEAN_FAILED)).last_error or "")
