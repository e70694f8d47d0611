"""Two daemons on one PostgreSQL and one broker: whatever is delivered to both has one effect and one answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractConnection

from metald.amqp.commands import intake
from metald.amqp.commands.acks import Acks
from metald.amqp.commands.slots import Slots
from metald.model import Node
from metald.model.command import Command, CommandState
from tests.support.commanding import PATIENCE, Place, Producer, Site, commanded, producing
from tests.support.postgres import PrivatePostgres, available, private_postgres

pytestmark = [pytest.mark.rabbit, pytest.mark.postgres]

FAKE: dict[str, Any] = {"driver": "fake-hardware", "name": "n1"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    if not available():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    yield from private_postgres()


@pytest.fixture
def database(postgres: PrivatePostgres) -> str:
    return postgres.url(postgres.fresh_database())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_PAUSE", 0.05)


@contextlib.asynccontextmanager
async def _held(site: Site) -> AsyncIterator[None]:
    """Nothing is carried out by a daemon inside."""
    slots = site.commands.lanes._slots = Slots(1)
    async with slots.one(urgent=False):
        yield


async def _away(site: Site, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """A daemon loses the connection that it takes commands by, until the event is set: what it has not acknowledged comes to others."""
    connect, back = site.link._connect, asyncio.Event()

    async def later() -> AbstractConnection:
        await back.wait()
        return await connect()

    monkeypatch.setattr(site.link, "_connect", later)
    assert site.link._connection is not None
    await site.link._connection.close()
    await site.until(lambda: not site.link.connected)
    return back


def _hoard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is done from now on is acknowledged."""
    monkeypatch.setattr(Acks, "done", lambda _self, _tag: None)


async def _nodes(tmp_path: Path, place: Place, database: str) -> list[str | None]:
    """The nodes that there are, as a daemon finds them that starts now."""
    async with commanded(tmp_path / "later", place, database=database) as site:
        assert site.api.house.store.table(Command).count("state", CommandState.PENDING) == 0
        return [node.name for node in site.api.house.store.table(Node)]


async def _quiet(producer: Producer) -> None:
    """Nothing waits in the queue, and no answer came that was not read."""
    async with asyncio.timeout(PATIENCE):
        while await producer.waiting():
            await asyncio.sleep(0.02)
    assert producer.inbox.empty()


async def test_what_one_has_done_the_other_answers(tmp_path: Path, place: Place, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with commanded(tmp_path / "a", place, database=database) as first, producing(place) as producer:
        with monkeypatch.context() as patch:
            _hoard(patch)
            await producer.send("node.create", "1", FAKE)
            done = await producer.reply()
        async with commanded(tmp_path / "b", place, database=database) as second:
            # it was loaded at the start; one that came later is found in the database
            back = await _away(second, monkeypatch)
            with monkeypatch.context() as patch:
                _hoard(patch)
                await producer.send("node.create", "2", {**FAKE, "name": "n2"}, key="urgent.node.create")
                later = await producer.reply()
            await _away(first, monkeypatch)
            back.set()
            answers = [await producer.reply() for _ in range(2)]
            assert {answer["command"]: answer["node"] for answer in answers} == {"1": done["node"], "2": later["node"]}
            assert {answer["_headers"]["cloudEvents:id"] for answer in answers} == {
                answer["_headers"]["cloudEvents:id"] for answer in (done, later)
            }
            assert (await producer.ask("node.create", "1", {**FAKE, "name": "n3"}))["code"] == 409
            await second.until(lambda: second.commands.ledger.pending == 0)
        await _quiet(producer)
    assert await _nodes(tmp_path, place, database) == ["n1", "n2"]


async def test_what_one_is_about_to_do_is_left_to_it(tmp_path: Path, place: Place, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        commanded(tmp_path / "a", place, database=database) as first,
        commanded(tmp_path / "b", place, database=database) as second,
        producing(place) as producer,
    ):
        back = await _away(second, monkeypatch)
        async with _held(first), _held(second):
            with monkeypatch.context() as patch:
                _hoard(patch)
                await producer.send("node.create", "1", FAKE)
                await first.until(lambda: first.commands.intakes[1].taken == 1)
            assert first.commands.ledger.pending == 1
            await _away(first, monkeypatch)
            back.set()
            await producer.send("node.create", "1", FAKE, correlation_id="elsewhere")
            await second.until(lambda: second.commands.intakes[1].taken == 1)
            assert second.commands.ledger.pending == 0
            assert producer.inbox.empty()
        answers = {(await producer.reply())["_correlation"] for _ in range(2)}
        assert answers == {"c-1", "elsewhere"}
        await _quiet(producer)
    assert await _nodes(tmp_path, place, database) == ["n1"]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_what_both_carry_out_is_done_once(tmp_path: Path, place: Place, database: str, many: bool) -> None:
    """A daemon that starts takes over what is durable, whoever took it: one that is held to be dead may not be."""
    asked: dict[str, Any] = {"items": [{**FAKE, "name": f"n{i}"} for i in range(5)]} if many else FAKE
    async with commanded(tmp_path / "a", place, database=database) as first, producing(place) as producer:
        async with _held(first):
            await producer.send("node.create", "1", asked)
            await first.until(lambda: first.commands.ledger.pending == (6 if many else 1))
            async with commanded(tmp_path / "b", place, database=database) as second:
                done = await producer.reply()
                assert done["status"] == "accepted"
                await second.until(lambda: not second.commands.ledger.unsent)
        await first.until(lambda: first.commands.ledger.pending == 0)
        assert await producer.ask("node.create", "1", asked) == done
        assert (await producer.ask("node.create", "2", {**FAKE, "name": "other"}))["status"] == "accepted"
        await _quiet(producer)
    assert await _nodes(tmp_path, place, database) == [*(f"n{i}" for i in range(5)), "other"] if many else ["n1", "other"]
