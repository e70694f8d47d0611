"""Events to a real broker: all of them, in sequence, whatever happens to the broker meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest
from aio_pika.abc import AbstractIncomingMessage

from metald.amqp.service import Broker
from metald.app import running
from metald.config import Amqp, Api, Settings, StoreSettings
from metald.model import Event, new_uuid, now
from metald.model.cursor import Cursor
from metald.store.changes import Change
from metald.store.store import Store
from tests.amqp.conftest import settings as link_settings
from tests.support.commanding import PATIENCE
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.rabbit]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(StoreSettings(), tmp_path)
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def publishing(store: Store, amqp: Amqp, hostname: str = "here") -> AsyncIterator[Broker]:
    broker = Broker(Settings(amqp=amqp), store, hostname)
    await broker.prepare()
    task = asyncio.create_task(broker.run())
    try:
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Consumer:
    """A foreign client with a durable queue, that notes what it gets and comes back when the broker does."""

    def __init__(self, url: str, key: str = "#") -> None:
        self._url = url
        self._key = key
        self.got: list[dict[str, Any]] = []
        self.messages: list[AbstractIncomingMessage] = []
        self._more = asyncio.Event()

    async def __aenter__(self) -> Consumer:
        self._connection = await aio_pika.connect_robust(self._url, reconnect_interval=0.1)
        channel = await self._connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        queue = await channel.declare_queue("events", durable=True)
        await queue.bind(exchange, self._key)
        await queue.consume(self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.got.append(orjson.loads(message.body))
        self.messages.append(message)
        self._more.set()
        with contextlib.suppress(Exception):
            await message.ack()

    async def until(self, last: int, timeout: float = PATIENCE) -> None:
        """Wait for the event of this number."""
        async with asyncio.timeout(timeout):
            while not any(event["id"] == str(last) for event in self.got):
                self._more.clear()
                await self._more.wait()

    def assert_all(self, first: int, last: int) -> None:
        """Every event came; first sights are in sequence, and what came twice was the same."""
        seen: dict[int, Any] = {}
        order = []
        for event in self.got:
            number = int(event["id"])
            if number in seen:
                assert seen[number] == event
            else:
                seen[number] = event
                order.append(number)
        assert order == list(range(first, last + 1))


async def emit(store: Store, count: int, node_uuid: str | None = None) -> None:
    node_uuid = node_uuid or new_uuid()
    await asyncio.gather(*(store.commit(Change(events=[_event(node_uuid, i)])) for i in range(count)))


def _event(node_uuid: str, i: int) -> Event:
    return Event(type="node.power_seen", node_uuid=node_uuid, data={"from": "power on", "to": "power off", "password": f"secret{i}"})


async def settled(service: Broker) -> None:
    """Wait until the broker has confirmed everything."""
    assert service.publisher is not None
    async with asyncio.timeout(PATIENCE):
        while service.publisher.waiting:
            await asyncio.sleep(0.01)


async def test_events_are_cloud_events_with_keys(store: Store, url: str) -> None:
    node, port = new_uuid(), new_uuid()
    async with publishing(store, link_settings(url)), Consumer(url) as consumer:
        await store.commit(Change(events=[_event(node, 1)]))
        await store.commit(Change(events=[Event(type="port.create", node_uuid=node, subject=port, user="ann", data={"address": "x"})]))
        await store.commit(Change(events=[Event(type="chassis.create", subject=port), Event(type="boot.unknown", data={"mac": "m"})]))
        await consumer.until(4)
    first, second, third, fourth = consumer.got
    assert first | {"time": ""} == {
        "specversion": "1.0",
        "id": "1",
        "source": "/metald",
        "type": "node.power_seen",
        "time": "",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000001",
        "severity": "INFO",
        "subject": node,
        "data": {"from": "power on", "to": "power off", "password": "******"},
    }
    assert (second["subject"], second["object"], second["user"]) == (node, port, "ann")
    assert third["subject"] == port
    assert "subject" not in fourth
    keys = [message.routing_key for message in consumer.messages]
    assert keys == [f"node.{node}.power_seen", f"node.{node}.port.create", f"chassis.{port}.create", "boot.-.unknown"]
    message = consumer.messages[0]
    assert message.content_type == "application/cloudevents+json; charset=utf-8"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.message_id == "1"


async def test_a_broker_that_is_killed_in_a_storm(broker: PrivateRabbit, store: Store, url: str) -> None:
    async with Consumer(url) as consumer, publishing(store, link_settings(url)) as service:
        assert service.publisher is not None
        await emit(store, 1500)
        await service.link.up.wait()
        broker.kill()
        await emit(store, 500)
        await service.link.down.wait()
        assert service.publisher.waiting >= 500
        await asyncio.to_thread(broker.start)
        await emit(store, 500)
        await consumer.until(2500)
        consumer.assert_all(1, 2500)
        assert service.link.losses == 1


async def test_a_connection_cut_between_publish_and_confirm(broker: PrivateRabbit, store: Store, url: str) -> None:
    """The broker has the message and we do not know it: it comes twice, with the same id."""
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        address = url.replace(f":{broker.port}/", f":{proxy.port}/")
        async with Consumer(url) as consumer, publishing(store, link_settings(address)) as service:
            await emit(store, 1)
            await consumer.until(1)
            proxy.mute()
            await emit(store, 20)
            await consumer.until(21)
            proxy.cut()
            await emit(store, 20)
            await consumer.until(41)
            consumer.assert_all(1, 41)
            assert len(consumer.got) > 41
            assert service.link.losses == 1


async def test_an_exchange_deleted_under_us(store: Store, url: str) -> None:
    """Publishing to it closes the channel (404). It is declared again, and nothing is lost to who binds again at once."""
    async with publishing(store, link_settings(url)) as service:
        async with Consumer(url) as consumer:
            await emit(store, 10)
            await consumer.until(10)
        assert service.publisher is not None
        connection = await aio_pika.connect(url)
        channel = await connection.channel()
        await channel.exchange_delete("metald.events")
        await emit(store, 10)
        await settled(service)
        assert service.publisher.unroutable == 10
        assert service.link.refusals >= 1
        await connection.close()
        async with Consumer(url) as consumer:
            await emit(store, 10)
            await consumer.until(30)
        assert service.link.losses == 0


async def test_a_queue_deleted_under_us_is_counted(store: Store, url: str) -> None:
    async with publishing(store, link_settings(url)) as service:
        async with Consumer(url) as consumer:
            await emit(store, 10)
            await consumer.until(10)
        connection = await aio_pika.connect(url)
        channel = await connection.channel()
        await channel.queue_delete("events")
        await connection.close()
        await emit(store, 10)
        assert service.publisher is not None
        await settled(service)
        assert service.publisher.unroutable == 10
        assert service.publisher.published == 20


async def test_an_exchange_of_another_type_is_said_and_waited_for(store: Store, url: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    await channel.declare_exchange("metald.events", "fanout", durable=True)
    async with publishing(store, link_settings(url)) as service:
        await emit(store, 5)
        async with asyncio.timeout(PATIENCE):
            while service.link.refusals < 2:
                await asyncio.sleep(0.01)
        assert "events: the broker" in caplog.text
        assert "inequivalent arg 'type'" in caplog.text
        await channel.exchange_delete("metald.events")
        await settled(service)
        assert service.publisher is not None
        assert service.publisher.published == 5
    await connection.close()


async def test_a_memory_alarm_stops_events_and_nothing_else(broker: PrivateRabbit, store: Store, url: str) -> None:
    async with Consumer(url) as consumer, publishing(store, link_settings(url, in_flight=64)) as service:
        assert service.publisher is not None
        await emit(store, 10)
        await consumer.until(10)
        await asyncio.to_thread(broker.alarm, True)
        try:
            await emit(store, 200)
            async with asyncio.timeout(PATIENCE):
                while not service.link.blocked:
                    await asyncio.sleep(0.01)
            await emit(store, 200)
            assert service.publisher.waiting >= 200
        finally:
            await asyncio.to_thread(broker.alarm, False)
        await consumer.until(410)
        consumer.assert_all(1, 410)
        assert service.link.losses == 0


async def test_a_disk_alarm_stops_events_and_nothing_else(broker: PrivateRabbit, tmp_path: Path, url: str) -> None:
    """The daemon as a whole: HTTP goes on, what was told meanwhile comes afterwards."""
    settings = {"amqp.url": url, "amqp.retry_delay": 0.05, "amqp.in_flight": 16, "drivers.enabled_hardware_types": "fake-hardware"}
    async with Daemon(tmp_path, settings) as daemon, Consumer(url) as consumer:
        await daemon.start()
        async with api(daemon) as client:
            await client.create(driver="fake-hardware", name="n0")
            await consumer.until(1)
            await asyncio.to_thread(broker.alarm, True, disk=True)
            try:
                for i in range(1, 60):
                    await client.create(driver="fake-hardware", name=f"n{i}")
                assert len((await client.ask("GET", "/v1/nodes"))["nodes"]) == 60
                assert len(consumer.got) < 60
            finally:
                await asyncio.to_thread(broker.alarm, False, disk=True)
            await consumer.until(60)
            consumer.assert_all(1, 60)
        await daemon.stop()
        daemon.assert_clean()


async def test_a_stop_waits_for_the_last_confirmations(store: Store, url: str) -> None:
    async with Consumer(url) as consumer:
        async with publishing(store, link_settings(url)) as service:
            await emit(store, 1)
            await consumer.until(1)
            await emit(store, 300)
        assert service.publisher is not None
        assert service.publisher.waiting == 0
        await consumer.until(301)
    assert len(consumer.got) == 301


async def test_a_stop_does_not_wait_for_a_broker_that_is_gone(store: Store, broker: PrivateRabbit, url: str) -> None:
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        async with publishing(store, link_settings(url.replace(f":{broker.port}/", f":{proxy.port}/"))) as service:
            assert service.publisher is not None
            await emit(store, 5)
            await settled(service)
            proxy.mute()
            await emit(store, 5)
        assert service.publisher.waiting == 5


async def test_without_a_broker_events_are_kept_for_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once a broker was set and now none is: its place is let go, so that old events may be purged."""
    settings = Settings(state_dir=str(tmp_path), api=Api(listen="127.0.0.1:0"))
    store = await Store.open(StoreSettings(), tmp_path)
    async with publishing(store, link_settings("amqp://127.0.0.1:1/")):
        await emit(store, 20)
    assert len(store.table(Cursor)) == 1
    await store.close()
    async with running(settings):
        pass
    assert "20 events unpublished" in caplog.text
    store = await Store.open(StoreSettings(), tmp_path)
    assert len(store.table(Cursor)) == 0
    assert await store.purge(before=now(), unread_before=now() - timedelta(days=1)) == 20
    await store.close()


async def test_it_goes_on_where_it_was(broker: PrivateRabbit, store: Store, url: str) -> None:
    """Events from while nothing published, and from before the first start of all: only the latter are not published."""
    await emit(store, 5)
    async with Consumer(url) as consumer:
        async with publishing(store, link_settings(url)) as service:
            await emit(store, 5)
            await settled(service)
        await emit(store, 700)
        async with publishing(store, link_settings(url)):
            await consumer.until(710)
    consumer.assert_all(6, 710)
    assert len(consumer.got) == 705


async def test_what_was_purged_first_is_told(store: Store, url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with publishing(store, link_settings("amqp://127.0.0.1:1/")):
        await emit(store, 20)
        assert await store.purge(before=now(), unread_before=now() - timedelta(days=1)) == 0
        assert await store.purge(before=now(), unread_before=now()) == 20
    await emit(store, 2)
    async with Consumer(url) as consumer, publishing(store, link_settings(url)) as service:
        await consumer.until(22)
        assert service.publisher is not None
        assert service.publisher.dropped == 20
    assert [event["type"] for event in consumer.got] == ["events.dropped", "node.power_seen", "node.power_seen"]
    assert consumer.got[0]["data"] == {"first": 1, "last": 20, "count": 20}
    assert "events 1 to 20 were let go" in caplog.text
