"""SIGKILL of a whole daemon at chosen instants: one effect and one answer of each command, every event in order and under one id."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from yarl import URL

from tests.support.commanding import PATIENCE, Place, commanded, producing
from tests.support.daemon import Daemon, api
from tests.support.doomed import INSTANTS, doomed
from tests.support.rabbit import PrivateRabbit
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.rabbit, pytest.mark.crash]

FAKE: dict[str, Any] = {"driver": "fake-hardware"}


def _settings(place: Place, **more: object) -> dict[str, object]:
    return {"amqp.url": place.url, "amqp.commands.exchange": place.exchange, "amqp.retry_delay": 0.05, "amqp.publish": "false", **more}


@pytest.mark.parametrize("instant", INSTANTS)
async def test_a_command_whose_daemon_dies_at_any_instant(tmp_path: Path, place: Place, instant: str) -> None:
    """It is sent once. The daemon dies over it, and the next one does, or says, what is left."""
    async with commanded(tmp_path / "before", place):
        pass  # makes the queues
    async with Daemon(tmp_path, _settings(place)) as daemon, producing(place) as producer:
        await daemon.start(doomed(instant))
        await producer.send("node.create", "command", {**FAKE, "name": "n1"})
        assert await daemon.ended() == -signal.SIGKILL
        heard = [] if producer.inbox.empty() else [await producer.reply()]
        await daemon.start()
        # whoever asks again gets the answer that there was, or will be
        await producer.send("node.create", "command", {**FAKE, "name": "n1"}, correlation_id="again")
        while "again" not in {answer["_correlation"] for answer in heard}:
            heard.append(await producer.reply())
        await producer.ask("node.create", "after", FAKE)
        async with api(daemon) as client:
            made = [node for node in (await client.ask("GET", "/v1/nodes"))["nodes"] if node["name"] == "n1"]
            told = (await client.ask("GET", "/v1/events?type=node.create"))["events"]
        assert [event["subject"] or event["node_uuid"] for event in told].count(made[0]["uuid"]) == len(made) == 1
        assert {(answer["command"], answer["status"], answer["node"]) for answer in heard} == {("command", "accepted", made[0]["uuid"])}
        assert {answer["_correlation"] for answer in heard} <= {"c-command", "again"}
        assert {answer["_headers"]["cloudEvents:id"] for answer in heard} == {heard[0]["_headers"]["cloudEvents:id"]}
        async with asyncio.timeout(PATIENCE):
            while await producer.waiting():
                await asyncio.sleep(0.02)
        daemon.assert_clean()


class Consumer:
    """Reads every event of metald's exchange, from a queue that outlives everything."""

    def __init__(self) -> None:
        self.events: list[tuple[int, dict[str, Any]]] = []
        self._came = asyncio.Event()

    async def take(self, message: AbstractIncomingMessage) -> None:
        event = json.loads(message.body)
        assert (message.message_id or "").endswith(event["id"])
        self.events.append((int(event["id"]), event))
        self._came.set()

    async def until(self, count: int) -> None:
        """Wait until so many different events have come."""
        async with asyncio.timeout(PATIENCE):
            while len({number for number, _ in self.events}) < count:
                self._came.clear()
                await self._came.wait()


@pytest.mark.parametrize("silent", ["answers", "everything"])
async def test_events_whose_daemon_dies_before_the_broker_has_confirmed_them(
    tmp_path: Path, place: Place, broker: PrivateRabbit, silent: str
) -> None:
    """They were committed, and perhaps sent; they come after the next start, in order, and what comes twice has the same id."""
    port = URL(place.url).port
    assert port is not None
    async with TcpProxy("127.0.0.1", port) as proxy, await aio_pika.connect(place.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        queue = await channel.declare_queue("everything", durable=True)
        await queue.bind(exchange, "#")
        consumer = Consumer()
        await queue.consume(consumer.take, no_ack=True)
        url = str(URL(place.url).with_port(proxy.port))
        settings = _settings(place, **{"amqp.url": url, "amqp.publish": "true", "amqp.heartbeat": 60})
        async with Daemon(tmp_path, settings) as daemon:
            await daemon.start()
            async with api(daemon) as client:
                await client.create(**FAKE, name="first")
                await consumer.until(1)
                proxy.mute()
                if silent == "everything":
                    proxy.hold()
                names = [f"n{i}" for i in range(30)]
                for name in names:
                    await client.create(**FAKE, name=name)
                last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
                if silent == "answers":
                    await consumer.until(last)
                else:
                    assert len(consumer.events) == 1
            await daemon.kill()
            proxy.cut()
            await daemon.start()
            async with api(daemon) as client:
                await client.create(**FAKE, name="last")
                last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            await consumer.until(last)
            daemon.assert_clean()
    first_seen: dict[int, dict[str, Any]] = {}
    for number, event in consumer.events:
        if number not in first_seen:
            assert number == len(first_seen) + 1, "in order, without a gap"
        assert first_seen.setdefault(number, event) == event, "the same id is the same event"
    assert len(consumer.events) > len(first_seen) or silent == "everything"
    made = [event["data"] for event in first_seen.values() if event["type"] == "node.create"]
    assert len(made) == len(names) + 2
