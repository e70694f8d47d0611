"""What a scrape tells of the broker while it is there, away, and back: HTTP goes on, events wait, and everything is delivered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commanding import PATIENCE, Place, producing
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

pytestmark = pytest.mark.rabbit

UP = {"connected/publish": 1, "connected/consume": 1}


async def scrape(daemon: Daemon) -> dict[str, float]:
    """Every sample of the broker's, with its labels' values behind a slash."""
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
        return {
            "/".join((sample.name.removeprefix("metald_amqp_"), *sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("metald_amqp_")
        }


async def until(daemon: Daemon, **wanted: float) -> dict[str, float]:
    """Scrape until the samples are as wanted."""
    async with asyncio.timeout(PATIENCE):
        while any(found.get(name) != value for found in [await scrape(daemon)] for name, value in wanted.items()):
            await asyncio.sleep(0.05)
    return await scrape(daemon)


async def test_a_broker_that_goes_and_comes_back(tmp_path: Path, broker: PrivateRabbit, place: Place) -> None:
    settings = {"amqp.url": place.url, "amqp.retry_delay": 0.05, "drivers.enabled_hardware_types": "fake-hardware"}
    async with Daemon(tmp_path, settings) as daemon:
        await daemon.start()
        there = await until(daemon, publishing=1, **UP, **{"commands_consuming/urgent": 1, "commands_consuming/commands": 1})
        assert (there["events_unpublished"], there["connections_total/publish"], there["blocked"]) == (0, 1, 0)
        async with producing(place) as producer:
            exchange = await producer.channel.get_exchange("metald.events")
            queue = await producer.channel.declare_queue("kept", durable=True)
            await queue.bind(exchange, "#")
            assert (await producer.ask("node.create", "1", {"driver": "fake-hardware"}))["status"] == "accepted"
            assert (await producer.ask("node.deploy", "2", {}))["status"] == "refused"
        commanded = await until(daemon, **{"commands_taken_total/commands": 1, "commands_rejected_total/commands": 1})
        assert (commanded["commands_pending"], commanded["replies_sent_total"]) == (0, 2)
        await asyncio.to_thread(broker.pause)
        try:
            await until(daemon, **{"connected/publish": 0, "connected/consume": 0})
            async with api(daemon) as client:
                for _ in range(7):
                    await client.create(driver="fake-hardware")
                last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            away = await until(daemon, events_unpublished=7)
            assert (away["connection_losses_total/publish"], away["publishing"]) == (1, 0)
        finally:
            await asyncio.to_thread(broker.resume)
        back = await until(daemon, events_unpublished=0, **UP)
        assert back["messages_published_total"] == last
        connection = await aio_pika.connect(place.url)
        async with connection:
            queue = await (await connection.channel()).declare_queue("kept", passive=True)
            async with queue.iterator(no_ack=True) as messages, asyncio.timeout(PATIENCE):
                ids = [int((await anext(messages)).message_id or 0) for _ in range(last)]
        assert ids == list(range(1, last + 1))
        await daemon.stop()
        daemon.assert_clean()
