"""The examples of docs/howto/commands.md, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from metald.model import Node
from tests.support.commanding import PATIENCE, Place, commanded

pytestmark = pytest.mark.rabbit

_PAGE = (Path(__file__).parents[2] / "docs/howto/commands.md").read_text()


def _example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)
    assert found is not None
    return found[1]


async def _run(url: str, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "BROKER": url}, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.skipif(shutil.which("amqp-publish") is None, reason="no amqp-publish: apt-get install amqp-tools")
async def test_the_examples_work_as_written(tmp_path: Path, place: Place) -> None:
    url = place.url
    async with commanded(tmp_path, place) as site:
        nodes = site.api.house.store.table(Node)
        for _ in range(2):
            await _run(url, "sh", "-euc", _example("sh"))
        await site.until(lambda: (node := nodes.by("name", "rack1-7")) is not None and node.provision_state.value == "manageable")
        assert len(nodes) == 1
        output = await _run(url, sys.executable, "-c", _example("python"), "rack1-7")
        assert [line.split()[:2] for line in output.splitlines()] == [["provide-rack1-7", "accepted"], ["deploy-rack1-7", "accepted"]]
        node = nodes.by("name", "rack1-7")
        assert node is not None
        await site.api.until(node.uuid, "active")
