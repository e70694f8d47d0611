"""Schema, addresses and files."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import stat
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from metald.config import ConfigError, StoreSettings
from metald.errors import Unavailable
from metald.model import Node
from metald.store import migrate
from metald.store.batch import RowChange
from metald.store.changes import Change
from metald.store.database import Database, locate
from metald.store.dialects import Postgres, Sqlite
from metald.store.kinds import BY_TYPE, KINDS
from metald.store.statements import Statements
from metald.store.store import Store
from metald.store.tables import metadata
from tests.store.conftest import Place
from tests.support.postgres import PrivatePostgres


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_migrations_can_be_read_as_sql(dialect: str) -> None:
    sql = migrate.script(dialect)
    for kind in KINDS:
        assert f"CREATE TABLE {kind.table} " in sql
    assert "CREATE TABLE events" in sql
    assert "INSERT INTO counters" in sql
    assert ("BIGINT GENERATED" in sql) is (dialect == "postgresql")


async def test_migrations_make_what_the_kinds_ask_for(place: Place) -> None:
    await (await place.open()).close()
    database = Database(locate(place.settings, place.state_dir), 5.0)

    def differences(connection: sa.Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), metadata())

    try:
        async with database.reading() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await database.close()


def test_the_newest_file_is_the_newest_revision() -> None:
    assert migrate.head() == ScriptDirectory.from_config(migrate._config()).get_current_head()


async def test_every_kind_can_be_stored_and_found_by_its_unique_fields(store: Store) -> None:
    for kind in KINDS:
        for field in kind.unique:
            assert hasattr(kind.type, field)
            assert store.table(kind.type).by(field, "nothing") is None
        for field in kind.indexed:
            assert store.table(kind.type).where(field, "nothing") == []


async def test_a_newer_schema_is_refused(place: Place) -> None:
    await (await place.open()).close()
    database = Database(locate(place.settings, place.state_dir), 5.0)
    async with database._write_engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(ConfigError, match="schema 9999"):
        await place.open()


async def test_downgrade_leaves_nothing(place: Place) -> None:
    await (await place.open()).close()
    database = Database(locate(place.settings, place.state_dir), 5.0)

    def down(connection: sa.Connection) -> set[str]:
        from alembic import command

        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return set(sa.inspect(connection).get_table_names())

    async with database._write_engine.begin() as connection:
        assert await connection.run_sync(down) <= {"alembic_version", "sqlite_sequence"}
    await database.close()


async def test_a_row_that_cannot_be_read_is_named(place: Place) -> None:
    store = await place.open()
    (row,) = (await store.commit(Change(save=[Node(driver="x")]))).saved
    await store.close()
    database = Database(locate(place.settings, place.state_dir), 5.0)
    async with database._write_engine.begin() as connection:
        await connection.execute(sa.text("UPDATE nodes SET doc = '{\"driver\": 1}'"))
    await database.close()
    with pytest.raises(Unavailable, match=f"Row {row.id} of table nodes cannot be read"):
        await place.open()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://x/y", "scheme 'mysql' is not known"),
        ("nonsense", "not a URL"),
        ("sqlite://", "is a file without options"),
        ("sqlite:///:memory:", "is a file without options"),
        ("sqlite:///x?mode=ro", "is a file without options"),
        ("sqlite+pysqlite:///x", "is not known"),
        ("postgresql://u:p@h:notaport/d", "not a URL"),
        ("postgresql://u:secret@h/d?target_session_attrs=any", "'target_session_attrs' is not known"),
    ],
)
async def test_wrong_addresses_are_explained(url: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        await Store.open(StoreSettings(url=url), tmp_path)
    assert "secret" not in str(caught.value)


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "made" / "state"
    store = await Store.open(StoreSettings(), state)
    await store.commit(Change(save=[Node(driver="x")]))
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert files.keys() >= {"metald.sqlite", "metald.sqlite-wal", "metald.sqlite.lock"}
    assert set(files.values()) == {0o600}
    await store.close()
    (state / "metald.sqlite").chmod(0o644)
    await (await Store.open(StoreSettings(), state)).close()
    assert stat.S_IMODE((state / "metald.sqlite").stat().st_mode) == 0o600


async def test_relative_paths_are_below_the_state_directory(tmp_path: Path) -> None:
    await (await Store.open(StoreSettings(url="sqlite:///sub/my.db"), tmp_path)).close()
    assert (tmp_path / "sub" / "my.db").exists()
    await (await Store.open(StoreSettings(url=f"sqlite:///{tmp_path}/abs.db"), tmp_path / "other")).close()
    assert (tmp_path / "abs.db").exists()


async def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        await Store.open(StoreSettings(), tmp_path / "file" / "state")


@pytest.mark.postgres
async def test_postgresql_by_unix_socket_and_options(postgres: PrivatePostgres, tmp_path: Path) -> None:
    name = postgres.fresh_database()
    await (await Store.open(StoreSettings(url=postgres.url(name, unix=True)), tmp_path)).close()
    url = postgres.url(name) + "?sslmode=prefer&application_name=mine"
    await (await Store.open(StoreSettings(url=url), tmp_path)).close()


async def test_sqlite_is_durable_and_looks_rows_up_by_index(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(), tmp_path)
    session: Any = await store._database.session()
    assert (await session._driver.execute_fetchall("PRAGMA synchronous"))[0][0] == 2
    assert (await session._driver.execute_fetchall("PRAGMA journal_mode"))[0][0] == "wal"
    await store.close()
    statements = Statements(Sqlite())
    nodes, kind = [Node(driver="ipmi", version=1) for _ in range(3)], BY_TYPE[Node]
    rows = [RowChange(kind, node, 1, b"{}") for node in nodes]
    queries = [of(kind, rows) for of in (statements.update, statements.rename, statements.delete, statements.matching)]
    for name in ("uuid", *kind.columns):
        queries += [statements.owners(kind, name, ["a", "b"])]
    queries += [statements.release(kind, name, ["a", "b"]) for name in kind.columns]
    connection = sqlite3.connect(tmp_path / "metald.sqlite")
    for query in queries:
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query.sql, query.args)]
        assert not [step for step in plan if step.startswith("SCAN nodes")], plan
    connection.close()


def test_what_we_use_of_aiosqlites_inside_is_there() -> None:
    assert list(inspect.signature(aiosqlite.Connection._execute).parameters) == ["self", "fn", "args", "kwargs"]
    assert isinstance(aiosqlite.Connection._conn, property)


def test_errors_of_the_drivers_become_remedies() -> None:
    import asyncpg

    postgres, sqlite = Postgres(), Sqlite()
    assert "read-only standby" in str(postgres.explain(asyncpg.ReadOnlySQLTransactionError("no")))
    assert "can be reached" in str(postgres.explain(ConnectionRefusedError("no")))
    assert "TimeoutError" in str(postgres.explain(TimeoutError()))
    assert "metald's log" in str(sqlite.explain(sqlite3.OperationalError("odd")))
    assert postgres.query("x", (("a", "text"), ("b", "text")), []).args == ([], [])


async def test_ten_thousand_nodes_are_installed_in_order(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(), tmp_path)
    for start in range(0, 10_000, 2500):
        await store.commit(Change(save=[Node(driver="ipmi", name=f"n{i}") for i in range(start, start + 2500)]))
    await store.close()
    store = await asyncio.wait_for(Store.open(StoreSettings(), tmp_path), 60)
    assert [n.name for n in store.table(Node)] == [f"n{i}" for i in range(10_000)]
    await store.close()
