"""Whose turn it is: commands keep the order of their messages, urgent ones go first, and none is lost on the way to its turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.commands import intake, post
from metald.amqp.commands.acks import Acks
from metald.amqp.commands.arrivals import Arrivals
from metald.amqp.commands.ledger import Ledger
from metald.amqp.commands.slots import Slots
from metald.errors import Unavailable
from metald.model import Node, now
from metald.model.caller import Caller
from metald.model.command import Command, CommandState
from tests.support.commanding import PATIENCE, Place, Site, commanded, producing

FAKE: dict[str, Any] = {"driver": "fake-hardware"}


def _command(number: int) -> Command:
    return Command(verb="node.nmi", sender_id=str(number), digest="", caller=Caller(user="a", request_id="r"), received_at=now())


def test_commands_are_handed_on_in_the_order_of_their_messages() -> None:
    taken: list[Command] = []
    arrivals = Arrivals(taken.append)
    first, second, third = (arrivals.begin() for _ in range(3))
    one, two, three = map(_command, range(3))
    third.settle([three])
    second.settle([two])
    assert taken == []
    first.settle([one])
    assert taken == [one, two, three]


def test_a_message_that_becomes_nothing_holds_up_no_other() -> None:
    taken: list[Command] = []
    arrivals = Arrivals(taken.append)
    first, second = arrivals.begin(), arrivals.begin()
    second.settle([_command(2)])
    first.leave()
    first.leave()
    assert [command.sender_id for command in taken] == ["2"]


@pytest.mark.parametrize("good", [True, False])
def test_what_is_being_written_when_the_connection_ends_is_waited_for(good: bool) -> None:
    taken: list[Command] = []
    arrivals = Arrivals(taken.append)
    writing, never_begun, after = (arrivals.begin() for _ in range(3))
    writing.begin_writing()
    after.settle([_command(3)])
    writing.leave()
    arrivals.close()
    assert (taken, never_begun.settled) == ([], True)
    if good:
        writing.settle([_command(1)])
    writing.end_writing()
    assert [command.sender_id for command in taken] == (["1", "3"] if good else ["3"])


async def test_urgent_ones_go_first_and_a_slot_is_never_lost() -> None:
    slots, order = Slots(1), []

    async def work(name: str, *, urgent: bool) -> None:
        async with slots.one(urgent=urgent):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for i in range(3):
            group.create_task(work(f"later {i}", urgent=False))
        left, urgent = (group.create_task(work(name, urgent=True)) for name in ("left", "urgent"))
        await asyncio.sleep(0)
        left.cancel()
    assert order == ["later 0", "urgent", "later 1", "later 2"]
    assert not urgent.cancelled()
    # whoever is cancelled just when it has got the slot passes it on
    async with slots.one(urgent=False):
        two = [asyncio.create_task(work(name, urgent=False)) for name in ("given", "next")]
        await asyncio.sleep(0)
    two[0].cancel()
    async with asyncio.timeout(PATIENCE):
        await two[1]
    assert order[-1] == "next"


class _Channel:
    """Notes what is acknowledged."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bool]] = []

    async def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.frames.append((tag, multiple))


async def test_what_never_arrived_is_never_acknowledged() -> None:
    channel = _Channel()
    acks = Acks(channel)  # type: ignore[arg-type]
    running = asyncio.create_task(acks.run())
    for tag in (1, 2, 4, 5):
        acks.begin(tag)
        acks.done(tag)
    async with asyncio.timeout(PATIENCE):
        await acks.sent(5)
    assert channel.frames == [(2, True), (4, False), (5, False)]
    running.cancel()


@contextlib.asynccontextmanager
async def _held(site: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Hold the store's writer; set the event, or leave, to let it go on."""
    go_on = asyncio.Event()
    writer = site.api.house.store._writer
    transact = writer._transact

    async def held(batch: Any) -> Any:
        await go_on.wait()
        return await transact(batch)

    monkeypatch.setattr(writer, "_transact", held)
    try:
        yield go_on
    finally:
        go_on.set()


@pytest.mark.rabbit
async def test_a_connection_lost_while_a_command_becomes_durable(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is carried out all the same, once; and the store holds up no new connection."""
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        async with _held(site, monkeypatch) as go_on:
            await producer.send("node.create", "1", FAKE)
            await producer.send("node.create", "2", FAKE)
            await site.until(lambda: len(site.commands.ledger._coming) == 2)
            lost = site.link._connection
            assert lost is not None
            await lost.close()
            await site.until(lambda: site.link.connects == 2 and site.commands.intakes[1].ready)
            go_on.set()
        answers = await producer.replies(2)
        assert {answer["status"] for answer in answers.values()} == {"accepted"}
        await site.until(lambda: site.commands.ledger.pending == 0)
        assert {node.uuid for node in site.api.house.store.table(Node)} == {answer["node"] for answer in answers.values()}


@pytest.mark.rabbit
async def test_a_command_that_is_written_at_the_second_try_is_not_overtaken(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, failed = Ledger.accept, []

    async def once(self: Ledger, order: Any, *rest: Any) -> list[Command]:
        if order.sender_id == "first" and not failed:
            failed.append(order)
            raise Unavailable("The disk is full.")
        return await accept(self, order, *rest)

    monkeypatch.setattr(Ledger, "accept", once)
    monkeypatch.setattr(intake, "_PAUSE", 0.05)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        node = await site.api.node(name="n1")
        for id_, value in (("first", 1), ("second", 2)):
            await producer.send("node.update", id_, {"node": "n1", "patch": [{"op": "add", "path": "/extra/x", "value": value}]})
        await producer.replies(2)
        assert failed
        assert site.api.house.node(node["uuid"]).extra == {"x": 2}


@pytest.mark.rabbit
async def test_a_message_of_high_priority_is_carried_out_before_those_that_wait(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        lanes = site.commands.lanes
        monkeypatch.setattr(lanes, "_slots", Slots(1))
        async with lanes._slots.one(urgent=False):
            for i in range(5):
                await producer.send("node.create", f"n{i}", {**FAKE, "name": f"n{i}"})
            await producer.send("node.create", "high", {**FAKE, "name": "high"}, priority=9)
            await producer.send("node.create", "urgent", {**FAKE, "name": "urgent"}, key="urgent.node.create")
            await site.until(lambda: len(lanes._slots._others) == 5 and len(lanes._slots._urgent) == 2)
        await producer.replies(7)
        names = [node.name for node in sorted(site.api.house.store.table(Node), key=lambda node: node.id)]
        assert (set(names[:2]), names[2:]) == ({"high", "urgent"}, [f"n{i}" for i in range(5)])


@pytest.mark.rabbit
async def test_urgent_ones_find_room_where_there_is_none_for_others(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commanded(tmp_path, place, pending=1) as site, producing(place) as producer:
        lanes = site.commands.lanes
        monkeypatch.setattr(lanes, "_slots", Slots(1))
        async with lanes._slots.one(urgent=False):
            await producer.send("node.create", "waits", FAKE)
            await site.until(lambda: len(lanes._slots._others) == 1)
            await producer.send("node.create", "no room", FAKE)
            await producer.send("node.create", "room", FAKE, key="urgent.node.create")
            await site.until(lambda: len(lanes._slots._urgent) == 1)
            assert site.commands.ledger.pending == 2
        assert len(await producer.replies(3)) == 3


@pytest.mark.rabbit
async def test_replies_that_find_no_room_are_sent_from_the_ledger(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "_MOST_WAITING", 3)
    monkeypatch.setattr(post, "_AT_ONCE", 1)
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        calm = asyncio.Event()
        monkeypatch.setattr(site.out, "unblocked", calm.wait)
        for i in range(20):
            await producer.send("node.create", str(i), FAKE)
        await site.until(lambda: len(site.api.house.store.table(Node)) == 20 and site.commands.ledger.pending == 0)
        assert producer.inbox.empty()
        calm.set()
        assert len(await producer.replies(20)) == 20
        await site.until(lambda: not site.commands.ledger.answered())
        assert producer.inbox.empty()


@pytest.mark.rabbit
async def test_a_dead_letter_that_had_not_left_leaves_after_a_restart(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users.toml"
    users.write_text('[guest]\nroles = ["reader"]\nsystem = true\n')
    async with producing(place) as producer:
        async with commanded(tmp_path, place, users=str(users)) as site:
            monkeypatch.setattr(site.out, "unblocked", asyncio.Event().wait)
            await producer.send("node.create", "1", FAKE, user_id="guest", reply=False)
            await site.until(lambda: len(site.commands.ledger.answered()) == 1)
            assert await producer.waiting(".dead") == 0
        async with commanded(tmp_path, place, users=str(users)) as site:
            dead = await producer.dead()
            assert (dead.headers["metald-code"], dead.headers["cloudEvents:id"]) == ("not-allowed", "1")
            assert dead.body == b'{"driver":"fake-hardware"}'
            await site.until(lambda: site.command("1").state is CommandState.SETTLED)
            assert site.command("1").arguments == {}
            told = [event for event in await site.api.house.store.events() if event.type == "command.rejected"]
            assert len(told) == 1


@pytest.mark.rabbit
async def test_a_message_that_comes_for_the_last_time_is_put_aside_with_the_reason(tmp_path: Path, place: Place) -> None:
    async with commanded(tmp_path, place, delivery_limit=2):
        pass
    async with producing(place) as producer:
        await producer.send("node.create", "poison", FAKE)
        for _ in range(2):
            queue = await producer.channel.get_queue(place.exchange, ensure=False)
            async with asyncio.timeout(PATIENCE):
                while (message := await queue.get(fail=False)) is None:
                    await asyncio.sleep(0.02)
            await message.nack(requeue=True)
        async with commanded(tmp_path, place, delivery_limit=2) as site:
            refused = await producer.reply()
            assert (refused["status"], refused["command"]) == ("refused", "poison")
            dead = await producer.dead()
            assert "came 3 times" in dead.headers["metald-reason"]
            assert [event.type for event in await site.api.house.store.events()] == ["command.rejected"]
            assert len(site.api.house.store.table(Node)) == 0


@pytest.mark.rabbit
async def test_what_nobody_foresaw_in_a_message_puts_it_aside(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = intake.read

    def broken(message: Any, **more: Any) -> Any:
        if message.message_id == "odd":
            raise KeyError("odd")
        return read(message, **more)

    monkeypatch.setattr(intake, "read", broken)
    async with commanded(tmp_path, place), producing(place) as producer:
        assert (await producer.ask("node.create", "odd", FAKE))["status"] == "refused"
        assert "KeyError" in (await producer.dead()).headers["metald-reason"]
        assert (await producer.ask("node.create", "good", FAKE))["status"] == "accepted"
    assert "a defect" in caplog.text
