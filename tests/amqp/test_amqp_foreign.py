"""Programs written with other libraries, pika and kombu, that send commands and read answers and events of a real daemon."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.amqp.test_amqp_metrics import until
from tests.support.commanding import Place
from tests.support.daemon import Daemon, api

pytestmark = pytest.mark.rabbit

ROOT = Path(__file__).parents[2]
COUNT = 20


@pytest.mark.parametrize("library", ["pika", "kombu"])
async def test_a_program_of_others(tmp_path: Path, place: Place, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"no {library}: make venv")
    async with Daemon(tmp_path, {"amqp.url": place.url, "amqp.retry_delay": 0.05}) as daemon:
        await daemon.start()
        await until(daemon, **{"commands_consuming/urgent": 1, "commands_consuming/commands": 1, "publishing": 1})
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.foreign_amqp", library, place.url, str(COUNT), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await program.communicate()
        assert program.returncode == 0
        heard = json.loads(said)
        async with api(daemon) as client:
            made = {node["name"]: node["uuid"] for node in (await client.ask("GET", "/v1/nodes"))["nodes"]}
        assert {id_: (answer["status"], answer["verb"], answer["node"]) for id_, answer in heard["answers"].items()} == {
            f"c{i}": ("accepted", "node.create", made[f"n{i}"]) for i in range(COUNT)
        }
        assert heard["events"].count("node.create") == COUNT
        await daemon.stop()
        daemon.assert_clean()
