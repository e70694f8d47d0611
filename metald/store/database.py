"""Connections to the database: where it is, how it is opened, and who may hold what.

Rules: exactly one connection writes (the StateWriter's), so that "database is locked" cannot come from within. On
SQLite a lock file keeps a second metald out, the file is readable by its owner alone, WAL and synchronous=FULL make
a commit durable over loss of power. Readers have connections of their own that can only read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from metald.config import ConfigError, StoreSettings
from metald.errors import Unavailable
from metald.store import migrate
from metald.store.dialects import Dialect, Postgres, Query, Sqlite
from metald.store.transaction import Steps

T = TypeVar("T")

_STATEMENTS = 512
_EXAMPLES = "Use sqlite:///path or postgresql://user:password@host/database."


class Session(Protocol):
    """One database connection, below SQLAlchemy, for the writer's own statements."""

    async def run(self, steps: Steps[T]) -> T:
        """Run the queries that the steps yield and return what they return. Errors go to the steps first."""


class _SqliteSession:
    """All steps in one hop to the connection's thread: between two statements nothing waits for the event loop."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def run(self, steps: Steps[T]) -> T:
        result: T = await self._driver._execute(self._drive, steps)
        return result

    def _drive(self, steps: Steps[T]) -> T:
        connection: sqlite3.Connection = self._driver._conn
        try:
            query = next(steps)
            while True:
                try:
                    cursor = connection.execute(query.sql, query.args)
                    result: Any = cursor.fetchall() if query.selects else cursor.rowcount
                except sqlite3.Error as error:
                    query = steps.throw(error)
                else:
                    query = steps.send(result)
        except StopIteration as stop:
            returned: T = stop.value
            return returned


class _PostgresSession:
    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def run(self, steps: Steps[T]) -> T:
        try:
            query = next(steps)
            while True:
                try:
                    result = await self._one(query)
                except Exception as error:
                    query = steps.throw(error)
                else:
                    query = steps.send(result)
        except StopIteration as stop:
            returned: T = stop.value
            return returned

    async def _one(self, query: Query) -> Any:
        if query.selects:
            return await self._driver.fetch(query.sql, *query.args)
        status: str = await self._driver.execute(query.sql, *query.args)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0


class Database:
    """The one writer connection and the readers.

    Args:
        url: where, in SQLAlchemy's form with the asynchronous driver.
        timeout: seconds that one attempt to connect or to get a lock may take.
    """

    def __init__(self, url: URL, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self.dialect: Dialect = Sqlite() if url.get_backend_name() == "sqlite" else Postgres()
        self._path = Path(url.database or "") if isinstance(self.dialect, Sqlite) else None
        self._inode = 0
        self._lock_file: int | None = None
        self._writer: AsyncConnection | None = None
        self._session: Session | None = None
        if self._path is not None:
            self._write_engine = _sqlite_engine(url, timeout, writing=True)
            self._read_engine = _sqlite_engine(url, timeout, writing=False)
        else:
            self._write_engine = self._read_engine = _postgres_engine(url, timeout)

    @property
    def file(self) -> Path | None:
        """The database's file, or None when it is on a server."""
        return self._path

    async def prepare(self) -> None:
        """Make the file private, keep others out, and bring the schema up to date.

        Raises:
            ConfigError: the schema is newer than this metald, or the URL's options are wrong.
            Unavailable: the database cannot be reached, or another metald has it.
        """
        try:
            if self._path is not None:
                self._claim(self._path)
            async with asyncio.timeout(None if self._path else 4 * self.timeout), self._write_engine.begin() as connection:
                await connection.run_sync(migrate.upgrade)
            if self._path is not None:
                self._inode = self._path.stat().st_ino
        except (sa.exc.SQLAlchemyError, OSError, TimeoutError) as error:
            raise self.dialect.explain(cause_of(error)) from error
        except Exception as error:
            if type(error).__module__.startswith("asyncpg"):
                raise self.dialect.explain(error) from error
            raise

    def _claim(self, path: Path) -> None:
        private_directory(path.parent)
        self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(
                f"Another metald uses the database {path}.", remedy="Stop it first, or use PostgreSQL for several daemons."
            ) from error
        # SQLite gives its -wal and -shm files the mode of the main file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)

    async def session(self) -> Session:
        """The writer's connection, made when there is none. Raises whatever the driver raises."""
        if self._path is not None and self._path.stat().st_ino != self._inode:
            raise FileNotFoundError(2, "the database file was replaced", str(self._path))
        if self._session is None:
            self._writer = await self._write_engine.connect()
            driver = (await self._writer.get_raw_connection()).driver_connection
            self._session = _SqliteSession(driver) if self._path is not None else _PostgresSession(driver)
        return self._session

    async def discard(self) -> None:
        """Throw the writer's connection away; what it had not committed is rolled back."""
        writer, self._writer, self._session = self._writer, None, None
        if writer is not None:
            try:
                await writer.invalidate()
            finally:
                await writer.close()

    async def committed(self, receipt: Any) -> bool:
        """Whether the transaction with this receipt was committed, as asked on a new connection.

        Raises whatever the driver raises; `TimeoutError` when the server is still busy with it.
        """
        session = await self.session()
        if self._path is not None:
            return bool(await session.run(_value("SELECT batches FROM counters")) >= receipt)
        async with asyncio.timeout(self.timeout):
            while True:
                status = await session.run(_value("SELECT pg_xact_status(CAST($1::text AS xid8))", receipt))
                if status != "in progress":
                    return bool(status == "committed")
                await asyncio.sleep(0.05)

    @property
    def deadline(self) -> float | None:
        """Seconds for one transaction. None for SQLite: its lock wait is bounded by itself, its disk is our own."""
        return None if self._path is not None else self.timeout

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries outside the writer.

        Raises:
            Unavailable: the database cannot be used now.
        """
        try:
            async with asyncio.timeout(None if self._path else 4 * self.timeout), self._read_engine.connect() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, OSError, TimeoutError) as error:
            raise self.dialect.explain(cause_of(error)) from error

    async def close(self) -> None:
        """Close every connection and let other daemons in."""
        writer, self._writer, self._session = self._writer, None, None
        if writer is not None:
            await writer.close()
        await self._write_engine.dispose()
        await self._read_engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def locate(settings: StoreSettings, state_dir: Path) -> URL:
    """The database's address. A relative SQLite path is below the state directory.

    Raises:
        ConfigError: the address is not one that metald can use.
    """
    try:
        url = make_url(settings.url) if settings.url else URL.create("sqlite", database="metald.sqlite")
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"store.url: not a URL. {_EXAMPLES}") from error
    if url.drivername == "sqlite":
        if url.query or url.host or not url.database or url.database == ":memory:":
            raise ConfigError("store.url: an SQLite database is a file without options. Use sqlite:///path.")
        return url.set(drivername="sqlite+aiosqlite", database=str(state_dir / url.database))
    if url.drivername == "postgresql":
        return url.set(drivername="postgresql+asyncpg")
    raise ConfigError(f"store.url: scheme {url.drivername!r} is not known. {_EXAMPLES}")


def _value(sql: str, *args: Any) -> Steps[Any]:
    ((value,),) = yield Query(sql, args, selects=True)
    return value


def private_directory(path: Path) -> None:
    """Make a directory that its owner alone can enter. One that exists stays as its maker wanted it.

    Raises:
        Unavailable: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The directory {path} cannot be made: {error.strerror}.", remedy="Set state_dir or store.url.") from error


def cause_of(error: BaseException) -> BaseException:
    """The driver's own error behind SQLAlchemy's."""
    original: BaseException | None = getattr(error, "orig", None)
    if original is None:
        return error
    return original.__cause__ or original


def _sqlite_engine(url: URL, timeout: float, *, writing: bool) -> AsyncEngine:
    # each statement of the writer's comes in a dozen sizes
    arguments = {"timeout": timeout, "cached_statements": _STATEMENTS}
    engine = create_async_engine(url, pool_size=1 if writing else 4, max_overflow=0, connect_args=arguments)

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below and by the writer, never by the driver
        cursor = connection.cursor()
        # 4,000 pages: under load the log is folded into the file every few dozen batches, not every few
        pragmas = ["journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"] if writing else ["query_only=ON"]
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    sa.event.listen(engine.sync_engine, "connect", connected)
    sa.event.listen(engine.sync_engine, "begin", begin)
    return engine


def _postgres_engine(url: URL, timeout: float) -> AsyncEngine:
    # jit only ever slows statements as short as ours; a commit that is not on disk is none
    server = {"jit": "off", "synchronous_commit": "on", "application_name": "metald"}
    arguments: dict[str, Any] = {"timeout": timeout, "command_timeout": 2 * timeout, "server_settings": server}
    query = dict(url.query)
    if "sslmode" in query:
        arguments["ssl"] = query.pop("sslmode")
    if "application_name" in query:
        server["application_name"] = str(query.pop("application_name"))
    if unknown := sorted(query.keys() - {"host", "port"}):
        raise ConfigError(f"store.url: option {unknown[0]!r} is not known. Known are host, port, sslmode, application_name.")
    return create_async_engine(url.set(query=query), pool_size=5, max_overflow=0, pool_pre_ping=True, connect_args=arguments)
