"""Bad luck on a real broker: whatever dies and whenever, each command has one effect and one answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import AMQPError

from metald.amqp.commands.acks import Acks
from metald.model import Node
from metald.model.command import Command, CommandState
from tests.support.commanding import PATIENCE, Place, Site, commanded, producing, queue_made
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}


async def _send(place: Place, left: dict[str, None]) -> None:
    """Send what is left over one connection; what the broker confirmed leaves the list."""
    async with producing(place) as producer:
        for name in list(left):
            await producer.send("node.create", name, {**FAKE, "name": name}, reply=False)
            left.pop(name, None)


async def _send_all(place: Place, names: list[str]) -> None:
    """As a producer that may not lose anything: send again whatever was not confirmed.

    Each connection has a task of its own that is waited for from outside: on a broker that dies, the client library may hold on to
    a cancellation.
    """
    left = dict.fromkeys(names)
    while left:
        trial = asyncio.create_task(_send(place, left))
        await asyncio.wait([trial], timeout=PATIENCE / 4)
        while not trial.done():
            trial.cancel()
            await asyncio.wait([trial], timeout=1)
        if not trial.cancelled() and (error := trial.exception()) is not None:
            assert isinstance(error, AMQPError | OSError | TimeoutError | RuntimeError), error
        await asyncio.sleep(0.05)


def _names(site: Site) -> list[str | None]:
    return sorted(node.name or "" for node in site.api.house.store.table(Node))


async def test_the_broker_dies_in_a_storm(tmp_path: Path, place: Place, broker: PrivateRabbit) -> None:
    names = [f"n{i:03}" for i in range(200)]
    async with commanded(tmp_path, place) as site:
        sending = asyncio.create_task(_send_all(place, names))
        await site.until(lambda: len(site.api.house.store.table(Node)) > 30)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await sending
        await site.until(lambda: len(site.api.house.store.table(Node)) >= 200)
        assert _names(site) == names


async def test_what_was_done_but_not_acknowledged_comes_back_and_is_done_once(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Acks.done
    async with producing(place) as producer:
        async with commanded(tmp_path, place) as site:
            monkeypatch.setattr(Acks, "done", lambda _self, _tag: None)
            for i in range(40):
                await producer.send("node.create", str(i), {**FAKE, "name": f"n{i}"})
            await producer.replies(40)
            monkeypatch.setattr(Acks, "done", done)
            cut = site.link._connection
            assert cut is not None
            await cut.close()
            await site.until(lambda: site.commands.intakes[1].taken >= 80)
            assert len(_names(site)) == 40
            again = await producer.replies(40)
            assert {reply["status"] for reply in again.values()} == {"accepted"}
            monkeypatch.setattr(Acks, "done", lambda _self, _tag: None)
            await producer.send("node.create", "last", FAKE)
            last = await producer.reply()
        monkeypatch.setattr(Acks, "done", done)
        async with commanded(tmp_path, place) as site:
            await site.until(lambda: site.commands.intakes[1].taken == 1)
            assert await producer.reply() == last
            assert len(_names(site)) == 41
            async with asyncio.timeout(PATIENCE):
                while await producer.waiting():
                    await asyncio.sleep(0.02)


async def test_a_storm_of_redeliveries_has_one_effect_each(tmp_path: Path, place: Place) -> None:
    """The connection is cut again and again while commands are taken: what was not acknowledged comes back each time."""
    names = [f"n{i:03}" for i in range(300)]
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await asyncio.gather(*(producer.send("node.create", name, {**FAKE, "name": name}) for name in names))
        async with commanded(tmp_path, place, delivery_limit=100, amqp={"declare": False}) as site:
            for cut in range(8):
                await site.until(lambda: site.commands.intakes[1].ready)
                await site.until(lambda cut=cut: len(site.api.house.store.table(Node)) >= 20 * cut)  # type: ignore[misc]
                assert site.link._connection is not None
                await site.link._connection.close()
                await site.until(lambda cut=cut: site.link.losses == cut + 1)  # type: ignore[misc]
            seen: dict[str, Any] = {}
            while len(seen) < len(names):
                reply = await producer.reply()
                assert seen.setdefault(reply["command"], reply)["node"] == reply["node"]
            assert _names(site) == names
            assert len(site.api.house.store.table(Command)) == len(names)
            async with asyncio.timeout(PATIENCE):
                while await _left(place):
                    await asyncio.sleep(0.05)
            assert (site.out.connects, site.out.losses) == (1, 0)


async def test_the_queue_is_deleted_under_us(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.ask("node.create", "1", FAKE)
        await producer.channel.queue_delete(place.exchange)
        await site.until(lambda: not site.commands.intakes[1].ready)
        await site.until(lambda: site.commands.intakes[1].ready)
        assert (await producer.ask("node.create", "2", FAKE))["status"] == "accepted"


async def test_a_queue_with_other_properties_is_said_and_waited_for(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Such as after a change of `delivery_limit`: the broker closes the channel (precondition failed), until somebody removes it."""

    async def mend() -> None:
        async with asyncio.timeout(PATIENCE):
            while "inequivalent arg 'x-delivery-limit'" not in caplog.text:
                await asyncio.sleep(0.02)
        await producer.channel.queue_delete(place.exchange)

    async with producing(place) as producer:
        other = {"x-queue-type": "quorum", "x-delivery-limit": 7, "x-dead-letter-exchange": f"{place.exchange}.dead"}
        await producer.channel.declare_queue(place.exchange, durable=True, arguments=other)
        mending = asyncio.create_task(mend())
        async with commanded(tmp_path, place) as site:
            await mending
            assert (await producer.ask("node.create", "1", FAKE))["status"] == "accepted"
            assert site.link.connects == 1


async def test_a_channel_that_the_broker_closes_is_opened_again(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way by it comes again by the next one, over the same connection."""
    begin, opened = Acks.begin, []

    def seen(self: Acks, tag: int) -> None:
        opened.append(self)
        begin(self, tag)

    monkeypatch.setattr(Acks, "begin", seen)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.ask("node.create", "1", FAKE)
        monkeypatch.setattr(Acks, "done", lambda _self, _tag: None)
        await producer.ask("node.create", "2", FAKE)
        monkeypatch.undo()
        await opened[0]._channel.basic_ack(4711)  # precondition failed: unknown delivery tag
        again = await producer.reply()
        assert (again["command"], again["status"]) == ("2", "accepted")
        assert (await producer.ask("node.create", "3", FAKE))["status"] == "accepted"
        assert (site.link.connects, site.link.refusals) == (1, 1)
        assert len(site.api.house.store.table(Node)) == 3


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_an_alarm_delays_and_loses_nothing(tmp_path: Path, place: Place, broker: PrivateRabbit, disk: bool) -> None:
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        for i in range(20):
            await producer.send("node.create", str(i), {**FAKE, "name": f"n{i}"})
        await asyncio.to_thread(lambda: broker.alarm(True, disk=disk))
        try:
            async with commanded(tmp_path, place, amqp={"timeout": 2.0}) as site:
                await site.until(lambda: len(site.api.house.store.table(Node)) == 20)
                await asyncio.to_thread(lambda: broker.alarm(False, disk=disk))
                seen: dict[str, Any] = {}
                while len(seen) < 20:  # one whose confirmation the alarm held back may come again, but never another
                    reply = await producer.reply()
                    assert seen.setdefault(reply["command"], reply) == reply
                assert len(_names(site)) == 20
        finally:
            await asyncio.to_thread(lambda: broker.alarm(False, disk=disk))


async def _left(place: Place) -> int:
    """How many commands wait in the broker, by a connection that has not published, which a broker with an alarm reads."""
    connection = await aio_pika.connect(place.url)
    async with connection:
        queue = await (await connection.channel()).declare_queue(place.exchange, passive=True)
        return queue.declaration_result.message_count or 0


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_who_owes_answers_takes_commands_during_an_alarm(
    tmp_path: Path, place: Place, broker: PrivateRabbit, monkeypatch: pytest.MonkeyPatch, disk: bool
) -> None:
    """Commands have their effect and are acknowledged; answers, and what is put aside, leave when the alarm is over."""
    async with producing(place) as producer:
        async with commanded(tmp_path, place) as site:
            monkeypatch.setattr(site.out, "unblocked", asyncio.Event().wait)
            for i in range(5):
                await producer.send("node.create", str(i), {**FAKE, "name": f"n{i}"})
            await site.until(lambda: len(site.commands.ledger.answered()) == 5)
        monkeypatch.undo()
        await producer.send("node.create", "bad", b"no JSON")
        for i in range(5, 25):
            await producer.send("node.create", str(i), {**FAKE, "name": f"n{i}"})
        await asyncio.to_thread(lambda: broker.alarm(True, disk=disk))
        try:
            async with commanded(tmp_path, place, amqp={"timeout": 2.0}) as site:
                await site.until(lambda: len(site.api.house.store.table(Node)) == 25 and site.out.blocked)
                async with asyncio.timeout(PATIENCE):
                    while await _left(place):
                        await asyncio.sleep(0.05)
                assert not site.link.blocked
                assert (site.link.losses, site.link.refusals) == (0, 0)
                assert producer.inbox.empty()
                await asyncio.to_thread(lambda: broker.alarm(False, disk=disk))
                seen: dict[str, Any] = {}
                while len(seen) < 26:
                    reply = await producer.reply()
                    seen[reply["command"]] = reply["status"]
                assert {id_ for id_, status in seen.items() if status != "accepted"} == {"bad"}
                assert (await producer.dead()).message_id == "bad"
        finally:
            await asyncio.to_thread(lambda: broker.alarm(False, disk=disk))


async def test_what_came_back_and_is_no_command_holds_up_nothing_during_an_alarm(
    tmp_path: Path, place: Place, broker: PrivateRabbit
) -> None:
    """It cannot be put aside yet. What came back with it goes on one by one, and so does the other queue."""
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await producer.send("node.create", "bad", b"no JSON")
        await producer.send("node.create", "worse", b"no JSON", key="urgent.node.create")
        for i in range(5):
            await producer.send("node.create", str(i), {**FAKE, "name": f"n{i}"})
            await producer.send("node.create", f"u{i}", {**FAKE, "name": f"u{i}"}, key="urgent.node.create")
        for _ in range(2):
            async with await aio_pika.connect(place.url) as connection:
                channel = await connection.channel()
                for name in (place.exchange, f"{place.exchange}.urgent"):
                    queue = await channel.get_queue(name)
                    for _ in range(6):
                        while await queue.get(fail=False) is None:
                            await asyncio.sleep(0.02)
        await asyncio.to_thread(lambda: broker.alarm(True))
        try:
            async with commanded(tmp_path, place, amqp={"timeout": 2.0}) as site:
                await site.until(lambda: len(site.api.house.store.table(Node)) == 10)
                assert site.commands.intakes[0].rejected == site.commands.intakes[1].rejected == 0
                await asyncio.to_thread(lambda: broker.alarm(False))
                assert {(await producer.dead()).message_id for _ in range(2)} == {"bad", "worse"}
        finally:
            await asyncio.to_thread(lambda: broker.alarm(False))


async def test_commands_are_taken_while_the_connection_for_answers_is_away(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        assert (await producer.ask("node.create", "1", FAKE))["status"] == "accepted"
        connecting, away = site.out._connect, asyncio.Event()

        async def later() -> aio_pika.abc.AbstractConnection:
            await away.wait()
            return await connecting()

        site.out._connect = later  # type: ignore[method-assign]
        assert site.out._connection is not None
        await site.out._connection.close()
        await site.until(lambda: not site.out.connected)
        await producer.send("node.create", "2", FAKE)
        await producer.send("node.create", "bad", b"no JSON")
        await producer.send("node.create", "3", FAKE)
        await site.until(lambda: len(site.api.house.store.table(Node)) == 3)
        assert producer.inbox.empty()
        away.set()
        answers = await producer.replies(3)
        assert {id_: answer["status"] for id_, answer in answers.items()} == {"2": "accepted", "bad": "refused", "3": "accepted"}
        assert (site.link.connects, site.link.losses, site.link.refusals) == (1, 0, 0)
        assert (site.out.connects, site.out.losses) == (2, 1)


async def test_a_dead_letter_exchange_that_is_deleted_is_made_again(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        await producer.channel.exchange_delete(f"{place.exchange}.dead")
        assert (await producer.ask("node.create", "bad", b"no JSON"))["status"] == "refused"
        assert (await producer.dead()).message_id == "bad"
        assert (site.link.connects, site.out.connects) == (1, 1)
        assert (await producer.ask("node.create", "good", FAKE))["status"] == "accepted"


async def test_ten_megabytes_are_refused_with_the_reason(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        body = b'{"driver": "fake-hardware", "extra": {"x": "%s"}}' % (b"x" * (10 << 20))
        refused = await producer.ask("node.create", "1", body)
        assert (refused["status"], refused["error"]["metald"]["field"]) == ("refused", "body")
        dead = await producer.dead()
        assert "amqp.commands.max_size" in dead.headers["metald-reason"]
        assert len(dead.body) <= 4096
        assert site.api.house.store.table(Command).all() == []
        assert (await producer.ask("node.create", "2", FAKE))["status"] == "accepted"


async def test_a_message_that_kills_comes_back_a_few_times_only(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place, delivery_limit=3):
        pass
    async with producing(place) as producer:
        await producer.send("node.create", "poison", FAKE, reply=False)
        for _ in range(4):
            dying = await aio_pika.connect(place.url)
            queue = await (await dying.channel()).get_queue(place.exchange, ensure=False)
            async with asyncio.timeout(PATIENCE):
                while await queue.get(fail=False) is None:
                    await asyncio.sleep(0.02)
            await dying.close()
        assert (await producer.dead()).message_id == "poison"
        assert await producer.waiting() == 0


async def test_a_flood_waits_in_the_broker_and_not_in_memory(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place):
        pass
    async with producing(place) as producer:
        await asyncio.gather(*(producer.send("node.create", str(i), FAKE, reply=False) for i in range(1500)))
        most = 0
        async with commanded(tmp_path, place, pending=50, amqp={"prefetch": 20}) as site:
            table = site.api.house.store.table(Command)

            def done() -> bool:
                nonlocal most
                most = max(most, table.count("state", CommandState.PENDING))
                return len(site.api.house.store.table(Node)) == 1500

            await site.until(done)
        assert most <= 50 + 2 * 20


@pytest.mark.crash
async def test_sigkill_in_the_middle_of_a_storm(tmp_path: Path, place: Place) -> None:
    names = [f"n{i:03}" for i in range(150)]
    settings = {
        "amqp.url": place.url, "amqp.commands.exchange": place.exchange, "amqp.retry_delay": 0.05, "amqp.publish": "false",
    }  # fmt: skip
    async with Daemon(tmp_path, settings) as daemon:
        await daemon.start()
        await queue_made(place)
        async with producing(place) as producer:
            await asyncio.gather(*(producer.send("node.create", name, {**FAKE, "name": name}) for name in names))
            for count in (20, 60, 100):
                await producer.replies(count // 3)
                await daemon.kill()
                await daemon.start()
            answered: dict[str, str] = {}
            async with api(daemon) as client, asyncio.timeout(PATIENCE):
                while len(found := (await client.ask("GET", "/v1/nodes?limit=1000"))["nodes"]) < len(names):
                    await asyncio.sleep(0.1)
            assert sorted(node["name"] for node in found) == names
            made = {node["name"]: node["uuid"] for node in found}
            for name in names[::10]:
                await producer.send("node.create", name, {**FAKE, "name": name})
            async with asyncio.timeout(PATIENCE):
                while len(answered) < len(names[::10]):
                    reply = await producer.reply()
                    assert reply["node"] == made[reply["command"]]
                    if reply["command"] in names[::10]:
                        answered[reply["command"]] = reply["node"]


@pytest.mark.crash
async def test_deployments_through_dying_daemons_and_a_dying_broker(tmp_path: Path, place: Place, broker: PrivateRabbit) -> None:
    names = [f"n{i:02}" for i in range(60)]
    settings = {
        "amqp.url": place.url, "amqp.commands.exchange": place.exchange, "amqp.retry_delay": 0.05, "amqp.publish": "false",
        "conductor.automated_clean": "false", "drivers.fake.deploy_delay": 0.05,
    }  # fmt: skip
    async with Daemon(tmp_path, settings) as daemon:
        await daemon.start()
        await queue_made(place)
        async with producing(place) as producer:
            await producer.send("node.create", "make", {"items": [{**FAKE, "name": name} for name in names]})
            for verb in ("manage", "provide"):
                await producer.send(f"node.{verb}", verb, {"nodes": names}, reply=False)
            assert (await producer.reply())["accepted"] == len(names)
            for name in names:
                await producer.send("node.deploy", f"deploy-{name}", {"node": name}, reply=False)
        for restart_broker in (False, True, False):
            await asyncio.sleep(0.3)
            await daemon.kill()
            if restart_broker:
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
            await daemon.start()
        async with api(daemon) as client, asyncio.timeout(PATIENCE):
            while len(found := (await client.ask("GET", "/v1/nodes?provision_state=active&limit=1000"))["nodes"]) < len(names):
                await asyncio.sleep(0.2)
            assert sorted(node["name"] for node in found) == names
            begun: Counter[str] = Counter()
            since = 0
            while (page := await client.ask("GET", f"/v1/events?since={since}&type=node.provision"))["next"] > since:
                begun.update(event["node_uuid"] for event in page["events"] if event["data"]["event"] == "deploy")
                since = page["next"]
            assert set(begun.values()) == {1}
            assert len(begun) == len(names)
