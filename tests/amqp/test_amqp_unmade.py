"""An event that cannot be put into a message holds up no other: it is logged, counted, and told of as dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest

from metald.amqp import metrics
from metald.amqp.service import Broker
from metald.config import Settings, StoreSettings
from metald.model import Event, new_uuid
from metald.store.changes import Change
from metald.store.store import Store
from tests.amqp.conftest import settings
from tests.support.commanding import PATIENCE

pytestmark = pytest.mark.rabbit


@contextlib.asynccontextmanager
async def _publishing(folder: Path, url: str) -> AsyncIterator[tuple[Store, Broker]]:
    store = await Store.open(StoreSettings(), folder)
    broker = Broker(Settings(amqp=settings(url, notifications=True)), store, "here")
    await broker.prepare()
    task = asyncio.create_task(broker.run())
    try:
        yield store, broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def _read(url: str, exchange: str, key: str, count: int, then: Any) -> list[dict[str, Any]]:
    """Bind a queue, do something, and read so many messages."""
    async with await aio_pika.connect(url) as connection, asyncio.timeout(PATIENCE):
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(await channel.declare_exchange(exchange, "topic", durable=exchange == "metald.events"), key)
        await then()
        async with queue.iterator(no_ack=True) as messages:
            return [orjson.loads((await anext(messages)).body) for _ in range(count)]


async def test_what_no_key_can_name_is_told_as_dropped(tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A routing key has 255 bytes at most. The numbers go on without a gap, and publishing does not begin anew."""
    good = Event(type="chassis.update", subject=new_uuid(), data={"fields": ["extra"]})
    bad = Event(type="chassis.create", subject="x" * 300)
    async with _publishing(tmp_path, url) as (store, broker):
        got = await _read(url, "metald.events", "#", 5, lambda: store.commit(Change(events=[good, bad, good, bad, good])))
        assert broker.publisher is not None
        families = {family.name: family for family in metrics.source(broker)}
        assert families["amqp_events_unmade"].samples == [({"type": "chassis.create"}, 2)]
        assert broker.publisher.restarts == 1
    assert [event["id"] for event in got] == ["1", "2", "3", "4", "5"]
    assert [event["type"].partition(".")[0] for event in got] == ["chassis", "events", "chassis", "events", "chassis"]
    assert got[1]["data"] == {"first": 2, "last": 2, "count": 1}
    logged = [record for record in caplog.records if "cannot be published" in record.message]
    assert [record.message for record in logged] == [f"event {n} (chassis.create) cannot be published by CloudEventVoice" for n in (2, 4)]
    assert [bool(record.exc_info) for record in logged] == [True, False]


async def test_what_ironic_has_no_words_for_is_told_by_the_others(tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An event without what its notification needs: the notifications go on behind it, and the event itself has been told."""
    node = new_uuid()
    bad = Event(type="node.provision", node_uuid=node, data={"event": "deploy"})
    good = Event(type="node.maintenance", node_uuid=node, data={"maintenance": True, "reason": None})
    async with _publishing(tmp_path, url) as (store, broker):
        told = await _read(url, "ironic", "ironic_versioned_notifications.#", 2, lambda: store.commit(Change(events=[bad, good])))
        events = await _read(url, "metald.events", "#", 2, lambda: store.commit(Change(events=[bad, good])))
        assert broker.publisher is not None
        assert broker.publisher.unmade == {"node.provision": 2}
    assert [orjson.loads(one["oslo.message"])["event_type"] for one in told] == [
        f"baremetal.node.maintenance_set.{status}" for status in ("start", "end")
    ]
    assert [event["type"] for event in events] == ["node.provision", "node.maintenance"]
    assert "event 1 (node.provision) cannot be published by IronicVoice" in caplog.text
    assert "KeyError" in caplog.text
