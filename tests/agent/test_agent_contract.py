"""The deploy interface `direct` before an agent that does what the test says: what is told to it, and bad luck of every kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metald.config import Settings
from metald.drivers.agent.client import AgentClient, AgentUnreachable, CommandFailed, Target
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.raid import AgentRaid
from metald.drivers.agent.rescue import AgentRescue
from metald.drivers.base import Done
from metald.drivers.registry import Registry
from metald.drivers.types import FAKE
from metald.errors import Invalid, NotFound
from metald.images.cache import ImageCache
from metald.model import Event, Node, Port, PowerState, ProvisionState, Verb
from metald.model.caller import SYSTEM
from metald.statemachine.agents import MASKED, Agents
from metald.store.changes import Change
from tests.support.house import SCRIPTED, House
from tests.support.house import settings as house_settings
from tests.support.scripted_agent import Failure, ScriptedAgent

P = ProvisionState
IMAGE = {"image_source": "http://192.0.2.1/image.raw", "image_checksum": "ab" * 32, "image_disk_format": "raw"}
CLEAN = [
    {"step": "second", "interface": "deploy", "priority": 10, "reboot_requested": False, "abortable": True},
    {"step": "first", "interface": "raid", "priority": 90, "reboot_requested": False, "abortable": True},
    {"step": "asked", "interface": "deploy", "priority": 0, "reboot_requested": False, "abortable": False},
]


class AgentHouse(House):
    """A house whose nodes may use `direct`."""

    def registry(self) -> Registry:
        found = super().registry()
        self.direct = AgentDeploy(self.settings, ImageCache(self.settings.images, self.state_dir))
        rescue = AgentRescue(self.direct, 60.0)
        return Registry([SCRIPTED, FAKE], [*found._interfaces.values(), self.direct, rescue, AgentRaid(self.direct)])

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[AgentHouse]:
        async with self.open():
            self.agents = Agents(self.store, self.engine, self.settings, self.direct.alive)
            try:
                yield self
            finally:
                await self.direct.close()

    async def machine(self, **fields: Any) -> str:
        fields = {"provision_state": P.AVAILABLE, "instance_info": IMAGE, **fields}
        node = await self.add(driver="fake-hardware", deploy_interface="direct", boot_interface="fake", power_interface="fake", **fields)
        return node.uuid

    async def boots(self, agent: ScriptedAgent, uuid: str, *states: ProvisionState) -> None:
        """Wait until the ramdisk is waited for, and let the agent call."""
        async with asyncio.timeout(20):
            while self.node(uuid).provision_state not in states or self.node(uuid).driver_internal_info.get("agent_secret_token"):
                await asyncio.sleep(0.01)
        await agent.call(self.agents, uuid)


def settings(**agent: Any) -> Settings:
    base = house_settings()
    values = {"command_timeout": 1.0, "poll_interval": 0.05, "power_off_timeout": 0.0, **agent}
    return msgspec.structs.replace(base, agent=msgspec.structs.replace(base.agent, **values))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[AgentHouse]:
    async with AgentHouse(tmp_path / "house", settings(deploy_logs_dir=str(tmp_path / "logs"))).living() as made:
        yield made


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[ScriptedAgent]:
    made = await ScriptedAgent(tmp_path / "agent").start()
    yield made
    await made.stop()


async def deploy(house: AgentHouse, agent: ScriptedAgent, **fields: Any) -> Node:
    uuid = await house.machine(**fields)
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.boots(agent, uuid, P.WAIT_CALL_BACK)
    return await house.until(uuid, P.ACTIVE)


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


# -- who is who


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


async def second_boot(folder: Path) -> contextlib.AbstractAsyncContextManager[ScriptedAgent]:
    """Another agent, as after another boot of the same machine."""
    agent = await ScriptedAgent(folder / "second").start()

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[ScriptedAgent]:
        try:
            yield agent
        finally:
            await agent.stop()

    return running()


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
