"""A house whose nodes are deployed by an agent that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from metald.config import Settings
from metald.drivers.agent.deploy import AgentDeploy
from metald.drivers.agent.raid import AgentRaid
from metald.drivers.agent.rescue import AgentRescue
from metald.drivers.registry import Registry
from metald.drivers.types import FAKE
from metald.images.cache import ImageCache
from metald.model import Node, ProvisionState, Verb
from metald.model.caller import SYSTEM
from metald.statemachine.agents import Agents
from tests.support.house import SCRIPTED, House
from tests.support.house import settings as house_settings
from tests.support.scripted_agent import ScriptedAgent

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
        """The UUID of a new node, which is available unless the fields say otherwise."""
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
    """A house's settings, with an agent that is soon given up."""
    base = house_settings()
    values = {"command_timeout": 1.0, "poll_interval": 0.05, "power_off_timeout": 0.0, **agent}
    return msgspec.structs.replace(base, agent=msgspec.structs.replace(base.agent, **values))


async def deploy(house: AgentHouse, agent: ScriptedAgent, **fields: Any) -> Node:
    """A node that the agent has deployed."""
    uuid = await house.machine(**fields)
    await house.conductor.provision(uuid, Verb.DEPLOY, SYSTEM)
    await house.boots(agent, uuid, P.WAIT_CALL_BACK)
    return await house.until(uuid, P.ACTIVE)


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
