"""Which of several daemons on one database publishes: one, and another when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from metald.amqp.outbox import Outbox
from metald.amqp.place import Lost, Place
from metald.config import StoreSettings
from metald.model import Event, new_uuid
from metald.store.changes import Change
from metald.store.store import Store
from tests.support.commanding import PATIENCE
from tests.support.postgres import PrivatePostgres, available, private_postgres

pytestmark = [pytest.mark.postgres]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    if not available():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    yield from private_postgres()


async def emit(store: Store, count: int) -> None:
    for _ in range(count):
        await store.commit(Change(events=[Event(type="node.nmi", node_uuid=new_uuid())]))


class Time:
    """The steady clock of both daemons, and the pauses of the one that waits; a test moves both."""

    def __init__(self) -> None:
        self.now = 0.0
        self._pauses: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        self._pauses.put_nowait(over)
        await over.wait()
        self.now += seconds

    async def pause(self) -> asyncio.Event:
        """The next pause, once it has begun; it is over when the event is set."""
        return await self._pauses.get()


async def test_a_daemon_that_is_silent_is_followed_and_fenced(
    postgres: PrivatePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    monkeypatch.setattr("metald.amqp.place.asyncio", SimpleNamespace(sleep=clock.sleep, get_running_loop=lambda: clock))
    settings = StoreSettings(url=postgres.url(postgres.fresh_database()))
    one = await Store.open(settings, tmp_path / "one")
    two = await Store.open(settings, tmp_path / "two")
    try:
        first, second = Place(one, "amqp", "one"), Place(two, "amqp", "two")
        assert await first.prepare() == await second.prepare() == 0
        await first.acquire()
        await first.move(3)
        follower = asyncio.create_task(second.acquire())
        async with asyncio.timeout(PATIENCE):
            for seq in (4, 5, 6, 7, 8):
                pause = await clock.pause()
                await first.move(seq)
                pause.set()
            pause = await clock.pause()
            assert not follower.done()
            pause.set()
            await follower
        assert second.seq == 8
        await second.move(9)
        with pytest.raises(Lost):
            await first.move(9)
        assert not first.held
        await second.release()
        await first.acquire()
        assert first.seq == 9
    finally:
        await one.close()
        await two.close()


async def test_events_of_another_daemon_are_read_in_their_place(postgres: PrivatePostgres, tmp_path: Path) -> None:
    settings = StoreSettings(url=postgres.url(postgres.fresh_database()))
    one = await Store.open(settings, tmp_path / "one")
    two = await Store.open(settings, tmp_path / "two")
    outbox = Outbox(one, 0)
    try:
        await emit(one, 3)
        await emit(two, 3)
        await emit(one, 3)
        await emit(two, 1)
        read: list[int] = []
        async with asyncio.timeout(PATIENCE):
            while len(read) < 10:
                read += [event.seq for event in await outbox.next(100)]
        assert read == list(range(1, 11))
    finally:
        outbox.close()
        await one.close()
        await two.close()
