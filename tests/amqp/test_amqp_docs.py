"""The how-to, as written; and a daemon that is killed while it publishes."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path
from uuid import uuid4

import aio_pika
import orjson
import pytest

from tests.support.commanding import PATIENCE
from tests.support.daemon import Daemon, api

pytestmark = [pytest.mark.rabbit]

_PAGE = Path("docs/howto/events.md")


async def test_the_command_of_the_page(tmp_path: Path, url: str) -> None:
    if shutil.which("amqp-consume") is None:
        pytest.skip("no amqp-tools: apt-get install amqp-tools")
    (consume,) = re.findall(r"^    (amqp-consume .*)$", _PAGE.read_text(), re.MULTILINE)
    connection = await aio_pika.connect(url)
    async with connection, asyncio.timeout(PATIENCE):
        exchange = await (await connection.channel()).declare_exchange("metald.events", "topic", durable=True)
        tool = asyncio.create_task(_run(consume, url))
        while not tool.done():
            # the tool binds its queue at some moment that nobody is told of
            await exchange.publish(aio_pika.Message(b"seen by the tool"), f"node.{uuid4()}.power_seen")
            await asyncio.wait([tool], timeout=0.1)
        assert (await tool) == "seen by the tool"


@pytest.mark.parametrize(("program", "queue"), [("follow.py", "follow"), ("follow_kombu.py", "follow-kombu")])
async def test_the_consumers_of_the_page(tmp_path: Path, url: str, program: str, queue: str) -> None:
    assert f"(events/{program})" in _PAGE.read_text()
    async with Daemon(tmp_path, _settings(url)) as daemon:
        await daemon.start()
        connection = await aio_pika.connect(url)
        channel = await connection.channel()
        follow = await asyncio.create_subprocess_exec(sys.executable, f"docs/howto/events/{program}", url, stdout=asyncio.subprocess.PIPE)
        try:
            async with api(daemon) as client, asyncio.timeout(PATIENCE):
                uuid = await client.create(driver="fake-hardware")
                assert follow.stdout is not None
                await _queue(channel, queue)
                await client.provision(uuid, "manage")
                line = (await follow.stdout.readline()).decode().split(maxsplit=2)
                assert line[1:] == [uuid, "enroll -> verifying\n"]
                line = (await follow.stdout.readline()).decode().split(maxsplit=2)
                assert line[1:] == [uuid, "verifying -> manageable\n"]
        finally:
            follow.kill()
            await follow.wait()
            await connection.close()


@pytest.mark.crash
async def test_a_daemon_killed_between_commit_and_publish_publishes_at_its_next_start(tmp_path: Path, url: str) -> None:
    """Killed five times amid changes: every event comes, first sights in sequence, doubles with the same id and content."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
    queue = await channel.declare_queue("all", durable=True)
    await queue.bind(exchange, "#")
    made = 0
    async with Daemon(tmp_path, _settings(url)) as daemon:
        for _ in range(5):
            await daemon.start()
            async with api(daemon) as client:
                made += len(await asyncio.gather(*(client.create(driver="fake-hardware") for _ in range(20))))
            await daemon.kill()
        await daemon.start()
        seen: dict[int, bytes] = {}
        order: list[int] = []
        created = 0
        async with asyncio.timeout(PATIENCE), queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                event = orjson.loads(message.body)
                number = int(event["id"])
                if number in seen:
                    assert seen[number] == message.body
                    continue
                seen[number] = message.body
                order.append(number)
                created += event["type"] == "node.create"
                if created == made:
                    break
        assert order == list(range(1, len(order) + 1))
        daemon.assert_clean()
    await connection.close()


def _settings(url: str) -> dict[str, object]:
    return {"amqp.url": url, "amqp.retry_delay": 0.05, "drivers.enabled_hardware_types": "fake-hardware"}


async def _run(command: str, url: str) -> str:
    words = shlex.split(command.replace('"$URL"', url))
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def _queue(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
    """Wait until somebody has made a queue and bound it: declaring is done before, by the same client."""
    async with asyncio.timeout(PATIENCE):
        while (await channel.declare_queue(name, durable=True)).declaration_result.consumer_count == 0:
            await asyncio.sleep(0.02)
