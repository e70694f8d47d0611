"""What happens when the database, the disk, the writer or the process does not play along."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metald.config import StoreSettings
from metald.errors import Duplicate, StaleVersion, Unavailable
from metald.model import Event, Node, Workflow
from metald.store import database as database_module
from metald.store.changes import Change, Committed
from metald.store.dialects import Trouble
from metald.store.store import Store
from tests.store.conftest import Place
from tests.support.postgres import PrivatePostgres, private_postgres
from tests.support.rows import node


async def sql(store: Store, statement: str) -> None:
    session: Any = await store._database.session()
    await session._driver.execute(statement)


@pytest.fixture
async def quick(tmp_path: Path) -> Any:
    store = await Store.open(StoreSettings(timeout=0.2), tmp_path)
    yield store
    await store.close()


async def test_a_full_disk_refuses_the_change_and_heals(quick: Store) -> None:
    (row,) = (await quick.commit(Change(save=[node("n")]))).saved
    session: Any = await quick._database.session()
    pages = (await session._driver.execute_fetchall("PRAGMA page_count"))[0][0]
    await sql(quick, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="disk is full: make room"):
        await quick.commit(Change(save=[row.changed(extra={"blob": "x" * 100_000})], events=[Event(type="e")]))
    assert quick.table(Node).all() == [row]
    assert quick.last_seq == 0
    # the limit was the connection's; the writer has made itself a new one
    await quick.commit(Change(save=[row.changed(extra={"blob": "x" * 100_000})], events=[Event(type="e")]))
    assert quick.last_seq == 1


async def test_a_lock_held_by_an_outsider_is_named_and_heals(quick: Store, tmp_path: Path) -> None:
    outsider = sqlite3.connect(tmp_path / "metald.sqlite", isolation_level=None)
    outsider.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(quick.commit(Change(save=[node(f"n{i}")])) for i in range(3)), return_exceptions=True)
    assert all(isinstance(r, Unavailable) and "Another program holds a lock" in str(r) for r in results)
    assert len(quick.table(Node)) == 0
    with pytest.raises(Unavailable, match="holds a lock"):
        await quick.purge()
    outsider.execute("ROLLBACK")
    outsider.close()
    await quick.commit(Change(save=[node("n1")]))
    assert quick.alive


async def test_a_short_lock_of_an_outsider_is_waited_for(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(timeout=20), tmp_path)
    outsider = sqlite3.connect(tmp_path / "metald.sqlite", isolation_level=None, check_same_thread=False)
    outsider.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(store.commit(Change(save=[node("n")])))
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    outsider.execute("ROLLBACK")
    outsider.close()
    await task
    await store.close()


async def test_reading_history_never_waits_for_the_writer(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(timeout=20), tmp_path)
    await store.commit(Change(events=[Event(type="e")]))
    outsider = sqlite3.connect(tmp_path / "metald.sqlite", isolation_level=None)
    outsider.execute("BEGIN IMMEDIATE")
    assert len(await store.events()) == 1
    outsider.close()
    await store.close()


async def test_a_second_metald_is_kept_out(quick: Store, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Another metald uses the database"):
        await Store.open(StoreSettings(), tmp_path)
    await quick.commit(Change(save=[node("n")]))


async def test_a_deleted_database_file_is_noticed(quick: Store, tmp_path: Path) -> None:
    (tmp_path / "metald.sqlite").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="file is gone"):
        await quick.commit(Change(save=[node("n")]))
    (tmp_path / "elsewhere").rename(tmp_path / "metald.sqlite")
    await quick.commit(Change(save=[node("n")]))


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "metald.sqlite").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(Unavailable, match="not an SQLite database"):
        await Store.open(StoreSettings(), tmp_path)


async def test_a_change_that_the_database_chokes_on_fails_alone(store: Store) -> None:
    binder = type(store._database.dialect)
    original = store._writer._statements._dialect.query

    def choking(sql: str, columns: Any, rows: Any, **more: Any) -> Any:
        if any("poison" in str(value) for row in rows for value in row):
            raise TypeError("cannot bind this")
        return original(sql, columns, rows, **more)

    store._writer._statements._dialect.query = choking  # type: ignore[method-assign]
    try:
        names = ["a", "b", "poison", "c"]
        results = await asyncio.gather(
            *(store.commit(Change(save=[node(n)], events=[Event(type=n)])) for n in names), return_exceptions=True
        )
    finally:
        del store._writer._statements._dialect.query
    assert binder is type(store._database.dialect)
    assert [type(r) for r in results] == [Committed, Committed, Unavailable, Committed]
    assert [e.type for e in await store.events()] == ["a", "b", "c"]
    assert [e.seq for e in await store.events()] == [1, 2, 3]


async def test_a_constraint_that_nobody_can_explain_hits_only_its_change(store: Store) -> None:
    unique = "CREATE UNIQUE INDEX odd ON nodes (length(doc))"
    await sql(store, unique)
    row = node("n")
    rows = [row, msgspec.structs.replace(row, uuid=node().uuid, name="m"), node("different")]
    results = await asyncio.gather(*(store.commit(Change(save=[r])) for r in rows), return_exceptions=True)
    assert [type(r) for r in results] == [Committed, Unavailable, Committed]
    assert store.alive


async def test_a_writer_that_dies_leaves_nobody_waiting(store: Store) -> None:
    def explode(_written: Any) -> None:
        raise RuntimeError("a defect")

    store._writer._install = explode
    tasks = [asyncio.create_task(store.commit(Change(save=[node(f"n{i}")]))) for i in range(5)]
    purge = asyncio.create_task(store.purge())
    results = await asyncio.gather(*tasks, purge, return_exceptions=True)
    assert all(isinstance(r, Unavailable) and "writer has stopped" in str(r) for r in results)
    assert not store.alive
    with pytest.raises(Unavailable, match="writer has stopped"):
        await store.commit(Change(save=[node("late")]))
    with pytest.raises(Unavailable, match="writer has stopped"):
        await store.purge()


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(store: Store) -> None:
    task = asyncio.create_task(store.commit(Change(save=[node("n")])))
    await asyncio.sleep(0)
    assert store._writer._task is not None
    store._writer._task.cancel()
    with pytest.raises(Unavailable, match="writer has stopped"):
        await task


async def test_a_closed_store_says_so(place: Place) -> None:
    store = await place.open()
    await store.close()
    with pytest.raises(Unavailable, match="stopping"):
        await store.commit(Change(save=[node("n")]))


async def test_a_commit_whose_answer_was_lost_is_settled_afterwards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks right after COMMIT: the change must come out made, once, with its event told once."""
    heard: list[int] = []
    store.subscribe(lambda events: heard.extend(e.seq for e in events))
    await store.commit(Change(save=[node("first")]))
    session: Any = await store._database.session()
    original = type(session).run

    async def losing(self: Any, steps: Any) -> Any:
        await original(self, steps)
        monkeypatch.setattr(type(session), "run", original)
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(type(session), "run", losing)
    done = await store.commit(Change(save=[node("n")], events=[Event(type="e")]))
    assert done.saved[0].version == 1
    assert heard == [1]
    assert await store.events() == done.events


async def test_a_commit_that_did_not_arrive_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks right before COMMIT reaches the database."""
    await store.commit(Change(save=[node("first")]))
    session: Any = await store._database.session()
    original = type(session).run

    async def losing(self: Any, steps: Any) -> Any:
        def short() -> Any:
            query, result = next(steps), None
            while query.sql != "COMMIT":
                result = yield query
                query = steps.send(result)
            steps.close()

        monkeypatch.setattr(type(session), "run", original)
        await original(self, short())
        raise ConnectionResetError("the connection broke")

    monkeypatch.setattr(type(session), "run", losing)
    done = await store.commit(Change(save=[node("n")], events=[Event(type="e")]))
    assert [e.seq for e in done.events] == [1]
    assert await store.events() == done.events
    assert len(store.table(Node)) == 2


async def test_a_doubtful_commit_reaches_memory_when_the_database_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(StoreSettings(timeout=0.2), tmp_path)
    session: Any = await store._database.session()
    original_run, original_session = type(session).run, store._database.session

    async def losing(self: Any, steps: Any) -> Any:
        await original_run(self, steps)
        monkeypatch.setattr(store._database, "session", gone)
        raise ConnectionResetError("the answer was lost")

    async def gone() -> Any:
        raise ConnectionRefusedError("gone")

    monkeypatch.setattr(type(session), "run", losing)
    with pytest.raises(Unavailable, match="while the change was being committed"):
        await store.commit(Change(save=[node("n")], events=[Event(type="e")]))
    assert len(store.table(Node)) == 0
    monkeypatch.setattr(type(session), "run", original_run)
    monkeypatch.setattr(store._database, "session", original_session)
    with pytest.raises(Duplicate):
        await store.commit(Change(save=[node("n")]))
    assert len(store.table(Node)) == 1
    assert store.last_seq == 1
    await store.close()


async def test_a_connection_that_cannot_even_be_closed_is_forgotten(quick: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = quick._database.discard

    async def stubborn() -> None:
        await original()
        raise OSError("cannot close")

    monkeypatch.setattr(quick._database, "discard", stubborn)
    await sql(quick, "DROP TABLE chassis")
    await sql(quick, "PRAGMA max_page_count = 1")
    with pytest.raises(Unavailable):
        await quick.commit(Change(save=[node("n", extra={"x": "x" * 1_000_000})]))
    await quick.commit(Change(save=[node("n")]))


async def test_errors_while_reading_become_unavailable(store: Store) -> None:
    await sql(store, "ALTER TABLE events RENAME TO gone")
    with pytest.raises(Unavailable):
        await store.events()
    await sql(store, "ALTER TABLE gone RENAME TO events")


@pytest.fixture(scope="module")
def mortal() -> Any:
    yield from private_postgres()


@pytest.mark.postgres
async def test_postgresql_may_crash_and_come_back(mortal: PrivatePostgres, tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(url=mortal.url(mortal.fresh_database()), timeout=0.5), tmp_path)
    (row,) = (await store.commit(Change(save=[node("n")], events=[Event(type="e")]))).saved
    mortal.kill()
    results = await asyncio.gather(
        store.commit(Change(save=[row.changed(extra={"lost": True})])), store.commit(Change(save=[node("m")])), return_exceptions=True
    )
    assert all(isinstance(r, Unavailable) and "when it is back" in str(r) for r in results), results
    with pytest.raises(Unavailable):
        await store.events()
    with pytest.raises(Unavailable):
        await store.purge()
    assert store.table(Node).all() == [row]
    await asyncio.to_thread(mortal.start)
    (row,) = (await store.commit(Change(save=[row.changed(extra={"kept": True})], events=[Event(type="e")]))).saved
    assert [e.seq for e in await store.events()] == [1, 2]
    await store.close()


@pytest.mark.postgres
async def test_a_short_outage_of_postgresql_is_only_a_delay(mortal: PrivatePostgres, tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(url=mortal.url(mortal.fresh_database()), timeout=30), tmp_path)
    await store.commit(Change(save=[node("first")]))
    mortal.kill()
    tasks = [asyncio.create_task(store.commit(Change(save=[node(f"n{i}")], events=[Event(type="e")]))) for i in range(5)]
    await asyncio.wait(tasks, timeout=0.1)
    await asyncio.to_thread(mortal.start)
    seqs = sorted([(await task).events[0].seq for task in tasks])
    assert seqs == [1, 2, 3, 4, 5]
    await store.close()


@pytest.mark.postgres
async def test_postgresql_that_hangs_makes_nobody_wait_for_ever(mortal: PrivatePostgres, tmp_path: Path) -> None:
    url = mortal.url(mortal.fresh_database())
    store = await Store.open(StoreSettings(url=url), tmp_path)  # making the tables takes what it takes
    await store.close()
    store = await Store.open(StoreSettings(url=url, timeout=1.0), tmp_path)
    mortal.freeze()
    try:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(store.commit(Change(save=[node("n")])), 60)
    finally:
        mortal.thaw()
    result = (await asyncio.gather(store.commit(Change(save=[node("n")])), return_exceptions=True))[0]
    assert isinstance(result, Committed | Duplicate | Unavailable)
    await store.close()


@pytest.mark.postgres
async def test_an_unreachable_or_refusing_server_is_explained(postgres: PrivatePostgres, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can be reached"):
        await Store.open(StoreSettings(url="postgresql://u:secret@127.0.0.1:1/d", timeout=0.5), tmp_path)
    with pytest.raises(Unavailable, match="no such database") as caught:
        await Store.open(StoreSettings(url=postgres.url("missing"), timeout=0.5), tmp_path)
    assert "unused" not in str(caught.value)


@pytest.mark.postgres
async def test_two_daemons_on_one_postgresql_number_events_without_gaps(postgres: PrivatePostgres, tmp_path: Path) -> None:
    settings = StoreSettings(url=postgres.url(postgres.fresh_database()))
    one, two = await Store.open(settings, tmp_path), await Store.open(settings, tmp_path)
    (row,) = (await one.commit(Change(save=[node("shared")]))).saved
    changes = [(s, Change(save=[node(f"{i}")], events=[Event(type="e")])) for i in range(100) for s in (one, two)]
    results = await asyncio.gather(*(s.commit(c) for s, c in changes), return_exceptions=True)
    assert sum(isinstance(r, Duplicate) for r in results) == 100
    assert [e.seq for e in await one.events()] == list(range(1, 101))
    outcomes = await asyncio.gather(*(s.commit(Change(save=[row.changed()])) for s in (one, two)), return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["Committed", "StaleVersion"]
    assert StaleVersion in map(type, outcomes)
    await one.close()
    await two.close()


@pytest.mark.crash
async def test_sigkill_in_the_middle_of_batches_loses_nothing_acknowledged(place: Place) -> None:
    await (await place.open()).close()
    script = Path(__file__).with_name("crash_writer.py")
    acknowledged: dict[int, int] = {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(place.state_dir), place.settings.url, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None
    seen = 0
    while seen < 400:
        i, cursor = (await asyncio.wait_for(process.stdout.readline(), 60)).split()
        acknowledged[int(i)] = int(cursor)
        seen += 1
    process.kill()
    for line in (await process.stdout.read()).splitlines(keepends=True):
        if line.endswith(b"\n"):
            i, cursor = line.split()
            acknowledged[int(i)] = int(cursor)
    await process.wait()

    store = await place.open()
    try:
        assert len(acknowledged) == 20
        events = await store.events(limit=1_000_000)
        assert [e.seq for e in events] == list(range(1, store.last_seq + 1))
        for i, cursor in acknowledged.items():
            machine = store.table(Node).by("name", f"n{i}")
            assert machine is not None
            reached = machine.extra["cursor"]
            assert reached >= cursor
            (workflow,) = store.table(Workflow).where("node_uuid", machine.uuid)
            assert workflow.cursor == reached
            assert [line.cursor for line in await store.journal(node_uuid=machine.uuid)] == list(range(1, reached + 1))
            assert [e.data["cursor"] for e in events if e.node_uuid == machine.uuid] == list(range(1, reached + 1))
    finally:
        await store.close()


def test_every_trouble_of_the_dialects_is_told_apart() -> None:
    import asyncpg

    postgres, sqlite = database_module.Postgres(), database_module.Sqlite()
    assert postgres.trouble(asyncpg.UniqueViolationError("x")) is Trouble.DUPLICATE
    assert postgres.trouble(asyncpg.AdminShutdownError("x")) is Trouble.LOST
    assert postgres.trouble(asyncpg.DiskFullError("x")) is Trouble.REFUSED
    assert postgres.trouble(asyncpg.DataError("x")) is Trouble.UNKNOWN
    assert postgres.trouble(TimeoutError()) is Trouble.LOST
    assert postgres.trouble(ValueError("x")) is Trouble.UNKNOWN
    assert sqlite.trouble(sqlite3.IntegrityError("x")) is Trouble.DUPLICATE
    assert sqlite.trouble(sqlite3.OperationalError("x")) is Trouble.UNKNOWN
    assert sqlite.trouble(PermissionError(13, "x")) is Trouble.REFUSED
    assert sqlite.trouble(ValueError("x")) is Trouble.UNKNOWN
