"""A house with agents, and an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.agent_house import AgentHouse, settings
from tests.support.scripted_agent import ScriptedAgent


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[AgentHouse]:
    async with AgentHouse(tmp_path / "house", settings(deploy_logs_dir=str(tmp_path / "logs"))).living() as made:
        yield made


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[ScriptedAgent]:
    made = await ScriptedAgent(tmp_path / "agent").start()
    yield made
    await made.stop()
