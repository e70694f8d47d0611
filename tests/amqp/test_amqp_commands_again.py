"""The same command again, from elsewhere: whoever asks is told, and no message is acknowledged before that is certain."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.commands import intake
from metald.amqp.commands.acks import Acks
from metald.amqp.commands.ledger import Ledger
from metald.errors import Unavailable
from metald.model import Node
from metald.model.command import Command, CommandState
from tests.support.commanding import Place, Producer, commanded, following, producing

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}


async def _told(producer: Producer, queue: str) -> dict[str, Any]:
    """The next answer in a queue."""
    message = await following(await producer.channel.get_queue(queue))
    answer: dict[str, Any] = json.loads(message.body)
    return answer


async def test_who_asks_while_it_waits_is_told_after_a_restart(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    done, known = Acks.done, []

    def seen(self: Acks, tag: int) -> None:
        known.append(site.command("1").addresses)
        done(self, tag)

    async with producing(place) as producer:
        await producer.channel.declare_queue("other", durable=True)
        async with commanded(tmp_path, place) as site:
            monkeypatch.setattr(Acks, "done", seen)
            node = await site.api.node(name="busy")
            await site.api.force(node["uuid"], provision_state="manageable", reservation="somebody")
            for reply_to in (producer.queue.name, "other", "other"):
                await producer.send("node.provide", "1", {"node": "busy"}, reply=False, reply_to=reply_to)
            await site.until(lambda: site.commands.intakes[1].taken == 3)
        monkeypatch.undo()
        assert known == [((producer.queue.name, "c-1"),), *2 * [((producer.queue.name, "c-1"), ("other", "c-1"))]]
        async with commanded(tmp_path, place) as site:
            await site.api.force(node["uuid"], reservation=None)
            answer = await producer.reply()
            assert (answer["command"], answer["status"]) == ("1", "accepted")
            assert (await _told(producer, "other"))["workflow"] == answer["workflow"]
            await site.until(lambda: site.command("1").state is CommandState.SETTLED)


async def test_not_more_than_some_are_told(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        node = await site.api.node(name="busy")
        await site.api.force(node["uuid"], provision_state="manageable", reservation="somebody")
        for i in range(20):
            await producer.send("node.provide", "1", {"node": "busy"}, correlation_id=str(i))
        await site.until(lambda: site.commands.intakes[1].taken == 20)
        assert site.commands.ledger.losses.counts["addresses"] == 3
        assert "from more than 16 places" in caplog.text
        await site.api.force(node["uuid"], reservation=None)
        assert {(await producer.reply())["_correlation"] for _ in range(17)} == {str(i) for i in range(17)}


async def test_many_ask_while_it_is_done(tmp_path: Path, place: Place) -> None:
    """Whether they come before its end, or after it, or while it is being written down."""
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        for round_ in range(10):
            for i in range(12):
                await producer.send("node.create", str(round_), FAKE, correlation_id=f"{round_}.{i}")
        found = [await producer.reply() for _ in range(120)]
        assert {answer["_correlation"] for answer in found} == {f"{round_}.{i}" for round_ in range(10) for i in range(12)}
        assert len({answer["node"] for answer in found}) == 10
        assert len(site.api.house.store.table(Node)) == 10


async def test_many_commands_in_one_are_asked_for_again_while_they_are_done(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        for i in range(12):
            await producer.send("node.create", "1", {"items": [FAKE] * 20}, correlation_id=str(i))
        found = [await producer.reply() for _ in range(12)]
        assert {answer["_correlation"] for answer in found} == {str(i) for i in range(12)}
        assert {answer["accepted"] for answer in found} == {20}
        assert len(site.api.house.store.table(Node)) == 20


async def test_who_asks_when_it_has_ended_is_told_before_the_message_is_acknowledged(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(place) as producer:
        await producer.channel.declare_queue("other", durable=True)
        async with commanded(tmp_path, place) as site:
            first = await producer.ask("node.create", "1", FAKE)
            await site.until(lambda: site.command("1").state is CommandState.SETTLED)
            monkeypatch.setattr(site.out, "unblocked", asyncio.Event().wait)
            await producer.send("node.create", "1", FAKE, reply=False, reply_to="other")
            await producer.send("node.create", "2", FAKE)
            await site.until(lambda: site.commands.ledger.unsent == 1)
            # what is going to leave anyway is acknowledged, although the broker takes nothing now
            await producer.send("node.create", "2", FAKE)
            await site.until(lambda: site.commands.intakes[1].taken == 3)
        monkeypatch.undo()
        async with commanded(tmp_path, place) as site:
            told = await _told(producer, "other")
            assert (told["command"], told["node"]) == ("1", first["node"])
            assert (await producer.reply())["command"] == "2"
            await site.until(lambda: site.commands.ledger.unsent == 0)
            assert producer.inbox.empty()
            assert len(site.api.house.store.table(Node)) == 2


async def test_a_store_that_is_away_keeps_who_asks_waiting(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    also, failed = Ledger.also, list[Command]()

    async def once(self: Ledger, command: Command, address: Any) -> Command | None:
        if not failed:
            failed.append(command)
            raise Unavailable("The disk is full.")
        return await also(self, command, address)

    monkeypatch.setattr(Ledger, "also", once)
    monkeypatch.setattr(intake, "_PAUSE", 0.05)
    async with commanded(tmp_path, place), producing(place) as producer:
        first = await producer.ask("node.create", "1", FAKE)
        assert await producer.ask("node.create", "1", FAKE) == first
        assert failed


async def test_answers_that_cannot_leave_are_not_more_than_some(tmp_path: Path, place: Place) -> None:
    """Then commands wait in the broker, urgent ones last of all; when the answers have left, all are done."""
    async with commanded(tmp_path, place, pending=50, amqp={"prefetch": 2}) as site, producing(place) as producer:
        with pytest.MonkeyPatch.context() as patch:
            calm = asyncio.Event()
            patch.setattr(site.out, "unblocked", calm.wait)
            for i in range(100):
                await producer.send("node.create", str(i), FAKE)
            await site.until(lambda: site.commands.ledger.unsent >= 50 and site.commands.ledger.pending == 0)
            await producer.send("node.create", "urgent", FAKE, key="urgent.node.create")
            await site.until(lambda: site.commands.intakes[0].taken == 1)
            assert site.commands.ledger.unsent <= 50 + 2 + 1
            assert len(site.api.house.store.table(Node)) == site.commands.ledger.unsent
            calm.set()
            assert len(await producer.replies(101)) == 101
        assert len(site.api.house.store.table(Node)) == 101
