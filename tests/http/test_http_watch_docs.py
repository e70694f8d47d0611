"""The how-to of watching, as written."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from tests.http.test_http_watch import tell
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.daemon import api as calling
from tests.support.watching import PATIENCE

PAGE = Path("docs/howto/watch.md").read_text()
ADDRESS = "127.0.0.1:6385"
CURL = re.findall(r"^    (curl .*)$", PAGE, re.MULTILINE)


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[asyncio.StreamReader]:
    """The output of a program, which is ended behind it."""
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=1 << 20)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(5 * PATIENCE):
            yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: apt-get install curl")
@pytest.mark.parametrize("command", CURL)
async def test_the_commands_of_the_page(api: Api, command: str) -> None:
    node = await api.node(name="n0", owner="rack1")
    await tell(api, 4711)
    made = 4712
    words = shlex.split(command.replace(ADDRESS, f"{api.client.host}:{api.client.port}"))
    async with running(*words) as output:
        if "stream" not in command:
            found = orjson.loads(await output.read())
            assert ([event["seq"] for event in found["events"]], found["next"], found["first_seq"]) == ([made], made, 1)
            return
        text = b""
        while b": heartbeat" not in text and b"snapshot.end" not in text:  # it is open then
            text += await output.readline()
        assert (b"event: snapshot.node" in text) is ("snapshot" in command)
        assert (node["uuid"].encode() in text) is ("snapshot" in command)
        await api.node(name="new", owner="rack1")
        numbers = []
        while not numbers or numbers[-1] <= made:
            line = await output.readline()
            assert line, text
            numbers += [int(line[4:])] if line.startswith(b"id: ") else []
        assert sorted(set(numbers)) == list(range(numbers[0], made + 2))


def test_the_page_has_commands_for_all_it_tells_of() -> None:
    assert len(CURL) == 5
    assert {word for word in ("since=4711'", "snapshot=true", "--compressed", "/v1/events?since") if any(word in c for c in CURL)} == {
        "since=4711'",
        "snapshot=true",
        "--compressed",
        "/v1/events?since",
    }


@pytest.mark.crash
async def test_the_program_of_the_page_goes_on_where_it_was(tmp_path: Path) -> None:
    """Over a kill of the daemon: each move once, in order."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    async with Daemon(tmp_path, {"drivers.enabled_hardware_types": "fake-hardware"}) as daemon:
        await daemon.start()
        program = program.replace(ADDRESS, str(daemon.settings["api.listen"])).replace("sleep(2)", "sleep(0.1)")
        async with running(sys.executable, "-c", program) as output:

            async def moves(node: str, count: int) -> list[str]:
                found: list[str] = []
                while len(found) < count:
                    words = (await output.readline()).decode().split()
                    found += words[2:] if words[1:2] == [node] else []
                return found

            for name in ("n1", "n2"):
                async with calling(daemon) as client:
                    node = await client.create(driver="fake-hardware", name=name)
                    await client.provision(node, "manage")
                assert await moves(node, 2) == ["verifying", "manageable"]
                if name == "n1":
                    await daemon.kill()
                    await daemon.start()
            await daemon.stop()
            async with asyncio.timeout(PATIENCE):
                while not (line := await output.readline()).startswith(b"end "):
                    assert line
            assert b"stopping" in line
        daemon.assert_clean()
