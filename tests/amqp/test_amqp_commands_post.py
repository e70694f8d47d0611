"""Letters that cannot be delivered, each for a reason of its own: it ends alone, is counted, and the others flow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage

from metald.amqp.commands import message, post, replies
from metald.amqp.commands.losses import REASONS
from metald.model import Node
from metald.model.command import CommandState
from tests.support.commanding import PATIENCE, Place, Producer, Site, commanded, following, producing
from tests.support.rabbit import PrivateRabbit

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}
READER = '[guest]\nroles = ["reader"]\nsystem = true\n'
LONG = "é" * 200


def _event(id_: str) -> bytes:
    return json.dumps({"specversion": "1.0", "id": id_, "source": "/t", "type": "node.create", "data": FAKE}).encode()


async def _send_long(producer: Producer, **more: Any) -> None:
    """A CloudEvent whose id has fewer characters than a short string of AMQP has bytes, but more bytes."""
    fields = {"content_type": "application/cloudevents+json", "correlation_id": None, **more}
    await producer.send("node.create", "m", _event(LONG), **fields)


def _lost(site: Site) -> dict[str, int]:
    return {reason: count for reason, count in site.commands.ledger.losses.counts.items() if count}


async def _settled(site: Site) -> None:
    await site.until(lambda: site.commands.ledger.pending == 0 and site.commands.ledger.unsent == 0)


async def test_an_id_that_no_answer_could_name_is_refused(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await _send_long(producer)
        refused = await producer.reply()
        assert (refused["status"], refused["error"]["metald"]["field"]) == ("refused", "id")
        assert "255 bytes" in str((await producer.dead()).headers["metald-reason"])
        assert len(site.api.house.store.table(Node)) == 0


@pytest.mark.parametrize("denied", [False, True], ids=["answer", "dead letter"])
async def test_a_letter_that_cannot_be_written_ends_alone(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, denied: bool
) -> None:
    """As an older metald left them in its database."""
    monkeypatch.setattr(message, "_LONGEST_ID", 1000)
    users = tmp_path / "users.toml"
    users.write_text(READER if denied else READER.replace("reader", "admin"))
    async with commanded(tmp_path, place, users=str(users)) as site, producing(place) as producer:
        with monkeypatch.context() as patch:
            patch.setattr(site.out, "unblocked", asyncio.Event().wait)  # nothing has left when the daemon ends
            await _send_long(producer, user_id="guest")
            for i in range(20):
                await producer.send("node.create", str(i), FAKE, user_id="guest")
            await site.until(lambda: site.commands.ledger.unsent == 21)
    async with commanded(tmp_path, place, users=str(users)) as site, producing(place) as producer:
        await _settled(site)
        assert _lost(site) == {"unsendable": 2 if denied else 1, "gone": 20}
        assert site.out.refusals == 0
        assert site.command(LONG).state is CommandState.SETTLED
        assert "cannot be sent" in caplog.text
        if denied:
            assert {(await producer.dead()).message_id for _ in range(20)} == {str(i) for i in range(20)}
        assert (await producer.ask("node.create", "next", FAKE, user_id="guest"))["command"] == "next"


async def test_a_queue_that_is_full_holds_up_nobody(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_FIRST_PAUSE", 0.01)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        full = await producer.channel.declare_queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        for i in range(60):
            await producer.send("node.create", f"full-{i}", FAKE, reply=False, reply_to="full")
            await producer.send("node.create", f"flows-{i}", FAKE)
        assert set(await producer.replies(60)) == {f"flows-{i}" for i in range(60)}
        await _settled(site)
        assert _lost(site) == {"refused": 59}
        assert (site.out.refusals, site.out.connects, site.commands.replies.sent) == (0, 1, 61)
        assert producer.inbox.empty()
        assert (await full.get(no_ack=True)) is not None
        await producer.send("node.create", "full-59", FAKE, reply=False, reply_to="full")
        assert json.loads((await following(full)).body)["command"] == "full-59"


async def test_a_full_queue_that_somebody_reads_again_gets_all(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over the end of the connection that they were refused by."""
    monkeypatch.setattr(replies, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(replies, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(replies, "_TRIES", 1_000_000)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        full = await producer.channel.declare_queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        for i in range(10):
            await producer.send("node.create", str(i), FAKE, reply=False, reply_to="full")
        await site.until(lambda: site.commands.ledger.unsent == 9 and site.commands.replies._patient == 8)
        assert site.out._connection is not None
        await site.out._connection.close()
        await site.until(lambda: site.out.connects == 2)
        found = [json.loads((await following(full)).body)["command"] for _ in range(10)]
        assert sorted(found) == [str(i) for i in range(10)]
        await _settled(site)
        assert _lost(site) == {}


async def test_a_queue_that_never_confirms_holds_up_nobody(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a quorum queue that has lost its quorum: the broker says neither yes nor no."""
    monkeypatch.setattr(replies, "_FIRST_PAUSE", 0.01)
    publish = replies.Replies.publish

    async def stalled(self: replies.Replies, exchange: Any, letter: Any, *, mandatory: bool) -> bool:
        if letter.key == "stalled":
            self.taken(letter)
            raise TimeoutError
        return await publish(self, exchange, letter, mandatory=mandatory)

    monkeypatch.setattr(replies.Replies, "publish", stalled)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.send("node.create", "stalled", FAKE, reply=False, reply_to="stalled")
        await site.until(lambda: "stalled" in site.commands.replies._lines)
        asked = 0
        while site.commands.ledger.unsent:  # only while others get theirs it is known that it is this queue's fault
            await producer.ask("node.create", str(asked), FAKE)
            asked += 1
        assert asked >= replies._TRIES
        assert _lost(site) == {"refused": 1}
        assert site.out.refusals == 0


async def test_too_many_letters_to_queues_that_take_none(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_MOST_PATIENT", 2)
    monkeypatch.setattr(replies, "_FIRST_PAUSE", 3600.0)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.channel.declare_queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        for i in range(8):
            await producer.send("node.create", str(i), FAKE, reply=False, reply_to="full")
        await site.until(lambda: _lost(site) == {"refused": 4})
        await site.until(lambda: site.commands.ledger.unsent == 3)
        # what is put aside is acknowledged although its answer waits there
        await producer.send("node.create", "bad", b"no JSON", reply=False, reply_to="full")
        assert (await producer.dead()).message_id == "bad"
        await site.until(lambda: site.commands.intakes[1].rejected == 1)


async def test_an_answer_that_is_too_large_for_the_broker_ends_alone(
    tmp_path: Path, place: Place, broker: PrivateRabbit, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker closes the channel and does not say for which; what was on its way with it goes one by one."""
    limit = "application:set_env(rabbit, max_message_size, {})"
    try:
        async with producing(place) as producer:
            await asyncio.to_thread(broker.ask, limit.format(20_000))
            async with commanded(tmp_path, place) as site:
                with pytest.MonkeyPatch.context() as patch:
                    calm = asyncio.Event()
                    patch.setattr(site.out, "unblocked", calm.wait)
                    for i in range(20):
                        await producer.send("node.create", str(i), FAKE)
                        if i == 10:
                            await producer.send("node.create", "large", {"items": [{"driver": "nonsense"}] * 200})
                    await site.until(lambda: site.commands.ledger.unsent == 21)
                    calm.set()
                    answers: set[str] = set()
                    while len(answers) < 20:
                        answers.add((await producer.reply())["command"])
                assert answers == {str(i) for i in range(20)}
                await _settled(site)
                assert _lost(site) == {"unsendable": 1}
                assert (site.out.refusals, site.out.connects) == (0, 1)
                assert "PRECONDITION_FAILED" in caplog.text
                assert (await producer.ask("node.create", "next", FAKE))["status"] == "accepted"
    finally:
        await asyncio.to_thread(broker.ask, limit.format(134217728))


async def test_a_queue_that_is_gone_is_counted(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.send("node.create", "1", FAKE, reply=False, reply_to="nobody")
        await site.until(lambda: _lost(site) == {"gone": 1})
        await _settled(site)
        assert site.commands.replies.sent == 0


async def test_losses_are_told_of_in_few_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from metald.amqp.commands import losses

    monkeypatch.setattr(losses, "_QUIET", 0.01)
    found = losses.Losses()
    assert tuple(found.counts) == REASONS
    for i in range(5):
        found.add("gone", f"letter {i} is lost")
    async with asyncio.timeout(PATIENCE):
        while "4 more" not in caplog.text:
            await asyncio.sleep(0.01)
        while found._untold:
            await asyncio.sleep(0.01)
    assert found.counts["gone"] == 5
    assert "letter 0 is lost" in caplog.text
    assert "letter 1" not in caplog.text


async def test_direct_reply_to(tmp_path: Path, place: Place) -> None:
    """RabbitMQ's own short way back, without a queue for the answers."""
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        queue = await producer.channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(inbox.put, no_ack=True)
        for id_, body in (("1", FAKE), ("2", b"no JSON"), ("1", FAKE)):
            await producer.send("node.create", id_, body, reply=False, reply_to="amq.rabbitmq.reply-to")
            async with asyncio.timeout(PATIENCE):
                answer = await inbox.get()
            assert answer.correlation_id == f"c-{id_}"
            assert json.loads(answer.body)["status"] == ("accepted" if id_ == "1" else "refused")
        await _settled(site)
        assert _lost(site) == {}


async def test_what_expires_in_the_broker_is_put_aside_by_it(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await producer.send("node.create", "late", FAKE, expiration=0.001)
        dead = await producer.dead()
        assert dead.message_id == "late"
        died: Any = dead.headers["x-death"]
        assert died[0]["reason"] == "expired"
        async with commanded(tmp_path, place) as site:
            assert (await producer.ask("node.create", "next", FAKE))["command"] == "next"
            assert len(site.api.house.store.table(Node)) == 1


async def _bad(producer: Producer, count: int) -> None:
    for i in range(count):
        await producer.send("node.create", f"bad-{i % 2}", b"a secret that is no JSON", reply=False)


async def test_dead_letters_reach_a_queue_that_was_deleted(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Among them some of the same id, which the broker's returns do not tell apart."""
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.channel.queue_delete(f"{place.exchange}.dead")
        await _bad(producer, 10)
        await site.until(lambda: site.commands.intakes[1].rejected == 10)
        found = [(await producer.dead()).message_id for _ in range(10)]
        assert (found.count("bad-0"), found.count("bad-1")) == (5, 5)
        queue = await producer.channel.get_queue(f"{place.exchange}.dead", ensure=False)
        await queue.unbind(f"{place.exchange}.dead", "#")
        await _bad(producer, 1)
        assert (await producer.dead()).message_id == "bad-0"
        assert (site.link.connects, site.link.refusals, site.out.connects) == (1, 0, 1)
        assert _lost(site) == {}
        assert "secret" not in caplog.text


async def test_dead_letters_that_nothing_takes_stay_with_the_broker(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Where metald may only look, it waits until somebody makes the queue; commands and answers go on."""
    users = tmp_path / "users.toml"
    users.write_text(READER + '[admin]\nroles = ["admin"]\nsystem = true\n')
    async with commanded(tmp_path, place):
        pass
    dead = f"{place.exchange}.dead"
    async with producing(place) as producer:
        async with commanded(tmp_path, place, users=str(users), amqp={"declare": False}) as site:
            queue = await producer.channel.get_queue(dead, ensure=False)
            await queue.unbind(dead, "#")
            await _bad(producer, 1)
            await producer.send("node.create", "denied", FAKE, user_id="guest")
            await site.until(lambda: f"until queue {dead} is bound" in caplog.text)
            assert (await producer.reply())["command"] == "denied"
            assert (await producer.ask("node.manage", "missing", {"node": "nobody"}, user_id="guest"))["code"] == 404
            await site.until(lambda: site.commands.ledger.unsent == 1)
            assert site.commands.intakes[1].rejected == 0
        # the daemon ends, and another one finds both again
        async with commanded(tmp_path, place, users=str(users), amqp={"declare": False}) as site:
            assert site.commands.ledger.unsent == 1
            await queue.bind(dead, "#")
            assert {(await producer.dead()).message_id for _ in range(2)} == {"bad-0", "denied"}
            await _settled(site)


async def test_a_dead_letter_queue_that_is_full_is_waited_for(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await producer.channel.queue_delete(f"{place.exchange}.dead")
        arguments: Any = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await producer.channel.declare_queue(f"{place.exchange}.dead", durable=True, arguments=arguments)
        await queue.bind(f"{place.exchange}.dead", "#")
        async with commanded(tmp_path, place, amqp={"declare": False}) as site:
            # a quorum queue counts behind time, and may take some more than it should
            await _bad(producer, 20)
            await site.until(lambda: "has refused a dead letter" in caplog.text)
            assert (await producer.ask("node.create", "good", FAKE))["status"] == "accepted"
            for _ in range(20):
                assert (await producer.dead()).message_id.startswith("bad-")  # type: ignore[union-attr]
            await site.until(lambda: site.commands.intakes[1].rejected == 20)
            assert site.link.refusals == 0


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a letter that blocks a place is noticed."""
    monkeypatch.setattr(post, "_AT_ONCE", 8)
