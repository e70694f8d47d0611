"""Messages that no library would send: each is put aside with the reason, and everything goes on over the same connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage
from pamqp.commands import Basic

from metald.amqp.commands.aside import Aside
from metald.amqp.commands.intake import Intake
from metald.model import Node
from tests.support.commanding import PATIENCE, Place, Producer, commanded, producing
from tests.support.odd_properties import RawHeaders, RawText, RawTime, nested

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}
BODY = b'{"driver": "fake-hardware"}'
LATIN = RawText(b"caf\xe9" * 60)


async def _publish(producer: Producer, properties: Basic.Properties, key: str = "node.create", body: bytes = BODY) -> None:
    channel = await producer.channel.get_underlay_channel()
    async with asyncio.timeout(PATIENCE):
        await channel.basic_publish(body, exchange=producer.exchange, routing_key=key, properties=properties)


@pytest.mark.parametrize(
    ("properties", "key", "named"),
    [
        (Basic.Properties(message_id=LATIN), "node.create", "message_id"),
        (Basic.Properties(message_id="1", correlation_id=LATIN), "node.create", "correlation_id"),
        (Basic.Properties(message_id="1", content_type=LATIN), "node.create", "content_type"),
        (Basic.Properties(message_id="1", reply_to=LATIN), "node.create", "reply_to"),
        (Basic.Properties(message_id="1"), RawText(b"node.\xe9"), "routing_key"),
        (Basic.Properties(message_id="1", headers={RawText(b"caf\xe9"): "x"}), "node.create", "headers"),
        (Basic.Properties(message_id="1", headers={"notbefore": RawTime.of(1.7e15)}), "node.create", "notbefore"),
        (RawHeaders(nested(20_000)), "node.create", "headers"),
    ],
    ids=["message_id", "correlation_id", "content_type", "reply_to", "routing_key", "header", "time in a header", "deep headers"],
)
async def test_what_cannot_be_read_is_put_aside_and_the_connection_lives(
    tmp_path: Path, place: Place, properties: Basic.Properties, key: str, named: str
) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await _publish(producer, properties, key)
        assert named in (await producer.dead()).headers["metald-reason"]
        assert (await producer.ask("node.create", "2", FAKE))["status"] == "accepted"
        assert (site.link.connects, site.link.losses, site.link.refusals) == (1, 0, 0)
        assert len(site.api.house.store.table(Node)) == 1
        assert next(event.type for event in await site.api.house.store.events()) == "command.rejected"


async def test_a_time_of_sending_that_is_none_is_no_reason_to_refuse(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        properties = Basic.Properties(message_id="1", timestamp=RawTime.of(1.7e15), expiration="600000", reply_to=producer.queue.name)
        await _publish(producer, properties)
        assert (await producer.reply())["status"] == "accepted"
        assert (site.link.connects, site.link.refusals) == (1, 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"raw": bytearray(b"\xff"), "latin": RawText(b"\xe9")},
        {"trace": "x" * 100_000},
        {f"h{i}": {"nested": [i] * 20} for i in range(500)},
    ],
)
async def test_headers_of_a_bad_message_are_kept_as_far_as_they_can_be_sent_again(
    tmp_path: Path, place: Place, headers: dict[str, Any]
) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await _publish(producer, Basic.Properties(message_id="1", headers={**headers, "kept": "k"}), body=b"no JSON")
        dead = await producer.dead()
        assert "not JSON" in dead.headers["metald-reason"]
        assert dead.headers["kept"] == "k"
        assert (site.link.connects, site.link.refusals) == (1, 0)


async def test_texts_with_nul_are_put_aside_too(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        for id_, verb, body in (("a\0b", "node.create", FAKE), ("1", "node.\0", FAKE), ("2", "node.maintenance", {"node": "a\0b"})):
            refused = await producer.ask(verb, id_, body)
            assert (refused["status"], refused["command"]) == ("refused", id_)
        assert (site.link.connects, site.link.refusals) == (1, 0)


async def test_only_the_message_that_kills_is_counted(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on the way together with it, in either queue, is taken all the same, although it kills as often as it may."""
    took: Counter[str] = Counter()
    judge = Intake._judge

    async def deadly(self: Intake, session: Any, arrival: Any, message: AbstractIncomingMessage) -> Any:
        count = (message.headers or {}).get("x-delivery-count", 0)
        took[message.message_id or ""] = max(took[message.message_id or ""], int(str(count)))
        if message.message_id == "killer" and int(str(count)) < 4:
            assert self._link._connection is not None
            await self._link._connection.close()
            await asyncio.Event().wait()
        return await judge(self, session, arrival, message)

    async with commanded(tmp_path, place, delivery_limit=4):
        pass
    names = [f"n{i}" for i in range(12)]
    async with producing(place) as producer:
        for name in [*names[:4], "killer", *names[4:]]:
            await producer.send("node.create", name, {**FAKE, "name": name})
            await producer.send("node.create", f"urgent-{name}", {**FAKE, "name": f"urgent-{name}"}, key="urgent.node.create")
        monkeypatch.setattr(Intake, "_judge", deadly)
        async with commanded(tmp_path, place, delivery_limit=4) as site:
            answers: dict[str, dict[str, Any]] = {}
            while len(answers) < 2 * len(names) + 2:
                reply = await producer.reply()
                answers[reply["command"]] = reply
            assert [id_ for id_, answer in answers.items() if answer["status"] != "accepted"] == ["killer"]
            assert site.link.losses == 4
            assert "came 5 times" in (await producer.dead()).headers["metald-reason"]
            assert await producer.waiting(".dead") == 0
            assert took.pop("killer") == 4
            assert max(took.values()) <= 2
            assert len(site.api.house.store.table(Node)) == 2 * len(names) + 1


async def test_a_user_of_the_broker_that_fails_leaves_nothing_in_its_channel(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failed = Aside.put, []

    async def once(self: Aside, *rest: Any) -> None:
        if not failed:
            failed.append(rest)
            raise TimeoutError
        await put(self, *rest)

    monkeypatch.setattr(Aside, "put", once)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.send("node.create", "bad", b"no JSON")
        await producer.send("node.create", "good", FAKE)
        answers = await producer.replies(2)
        assert {id_: answer["status"] for id_, answer in answers.items()} == {"bad": "refused", "good": "accepted"}
        assert (site.link.connects, site.link.refusals) == (1, 1)
        async with asyncio.timeout(PATIENCE):
            while await producer.waiting():
                await asyncio.sleep(0.02)


async def test_a_queue_for_a_single_active_consumer_is_consumed_from_the_start(tmp_path: Path, place: Place) -> None:
    """As operators make it where several daemons read it, for the order; it gives no single messages to those who ask."""
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await producer.channel.queue_delete(place.exchange)
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-dead-letter-exchange": f"{place.exchange}.dead"}
        queue = await producer.channel.declare_queue(place.exchange, durable=True, arguments=arguments)
        await queue.bind(place.exchange, "node.*")
        async with commanded(tmp_path, place, amqp={"declare": False}) as site:
            assert (await producer.ask("node.create", "1", FAKE))["status"] == "accepted"
            assert (site.link.connects, site.link.refusals) == (1, 1)


CLOUD = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "metald.command.node.maintenance"}


async def test_a_refusal_names_the_id_and_the_verb_that_its_sender_gave(tmp_path: Path, place: Place) -> None:
    """Whatever the form is, and whatever was wrong: an event needs no `message_id`, and its routing key is a way and no verb."""
    structured = {"content_type": "application/cloudevents+json", "message_id": None, "key": "urgent.node.create"}
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        forms: list[tuple[Any, dict[str, Any]]] = [
            ({**CLOUD, "data": {"node": "n", "maintenance": 1}}, structured),
            ({**CLOUD, "data": 17}, structured),
            ({**CLOUD, "notbefore": "soon"}, structured),
            (b"no JSON", {"message_id": None, "headers": {f"ce-{name}": value for name, value in CLOUD.items()}}),
        ]
        for body, more in forms:
            refused = await producer.ask("node.update", "unused", body, correlation_id=None, **more)
            assert (refused["command"], refused["verb"], refused["_correlation"]) == ("e1", "node.maintenance", "e1")
            said = {name: refused["_headers"][f"cloudEvents:{name}"] for name in ("specversion", "type", "subject", "source")}
            assert said == {"specversion": "1.0", "type": "metald.reply.refused", "subject": "e1", "source": "/metald"}
            assert refused["_headers"]["cloudEvents:id"].endswith(".refusal")
            await producer.dead()
        refused = await producer.ask("node.update", "plain", b"[]", key="urgent.node.create")
        assert (refused["command"], refused["verb"]) == ("plain", "node.create")
        told = [event for event in await site.api.house.store.events() if event.type == "command.rejected"]
        assert [(event.data["verb"], event.data["id"]) for event in told] == [("node.maintenance", "e1")] * 4 + [("node.create", "plain")]
