"""What differs between SQLite and PostgreSQL in the writer's statements, and how their errors read.

One statement carries many rows: they come as one array for each column (PostgreSQL, `unnest`) or as so many placeholders
(SQLite, `VALUES`) and appear to the statement as a table named `src`. A column is a name and its SQL type.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

from metald.errors import Unavailable

Column = tuple[str, str]
Row = Sequence[Any]

MOST_ROWS = 1000
"""Most rows in one statement: SQLite takes 32,766 arguments."""


class Query(NamedTuple):
    """A statement. Its result is a list of rows if it `selects`, else the number of rows it changed."""

    sql: str
    args: tuple[Any, ...] = ()
    selects: bool = False


class Trouble(Enum):
    """What an error of the database means for a batch."""

    DUPLICATE = "a unique value is taken"
    LOST = "the connection broke, another one may work"
    REFUSED = "the database cannot take writes now"
    UNKNOWN = "something in the batch itself is wrong, or a defect"


class Dialect(Protocol):
    """The SQL of one database."""

    name: str
    begin: str
    """Statement that begins a writing transaction."""
    receipt: str
    """SQL expression over the counters' row that identifies the running transaction afterwards."""

    def mark(self, position: int) -> str:
        """The placeholder of the n-th argument, from 1."""

    def source(self, columns: Sequence[Column]) -> str:
        """FROM item `src` with these columns, for a statement that `query` completes."""

    def every(self, columns: Sequence[Column]) -> str:
        """What follows `source` in a statement that inserts each of its rows, in their order."""

    def query(self, sql: str, columns: Sequence[Column], rows: Sequence[Row], *, selects: bool = False) -> Query:
        """A statement with its rows, at most `MOST_ROWS`. A `doc` value is JSON text as bytes."""

    def trouble(self, error: BaseException) -> Trouble:
        """What an error of the driver means."""

    def explain(self, error: BaseException) -> Unavailable:
        """The error that users get when the database does not work."""


class Sqlite:
    """SQLite 3.35 or later."""

    name = "sqlite"
    begin = "BEGIN IMMEDIATE"
    receipt = "batches"

    _ROWS = "{rows}"

    def __init__(self) -> None:
        self._sized: dict[tuple[str, int], str] = {}

    _REMEDIES: ClassVar[dict[int, str]] = {
        sqlite3.SQLITE_BUSY: "Another program holds a lock on the database file: end it, and repeat the request.",
        sqlite3.SQLITE_LOCKED: "Another program holds a lock on the database file: end it, and repeat the request.",
        sqlite3.SQLITE_FULL: "The disk is full: make room on it, and repeat the request.",
        sqlite3.SQLITE_IOERR: "The disk refuses reads or writes: look at the kernel's log, and at free space.",
        sqlite3.SQLITE_READONLY: "The database file or its disk is read-only: make it writable.",
        sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened: see that it and its directory exist and belong to metald's account.",
        sqlite3.SQLITE_CORRUPT: "The database file is damaged: restore it from a backup.",
        sqlite3.SQLITE_NOTADB: "The file is not an SQLite database: set store.url to another path.",
        sqlite3.SQLITE_PERM: "metald's account may not use the database file: correct its owner and mode.",
    }

    def mark(self, position: int) -> str:
        """See `Dialect.mark`."""
        del position
        return "?"

    def source(self, columns: Sequence[Column]) -> str:
        """See `Dialect.source`."""
        fields = ", ".join(f"column{i} AS {name}" for i, (name, _) in enumerate(columns, 1))
        return f"(SELECT {fields} FROM (VALUES {self._ROWS})) AS src"  # noqa: S608

    def every(self, columns: Sequence[Column]) -> str:
        """See `Dialect.every`."""
        return f" WHERE src.{columns[0][0]} IS NOT NULL"

    def query(self, sql: str, columns: Sequence[Column], rows: Sequence[Row], *, selects: bool = False) -> Query:
        """See `Dialect.query`. Rows of NULL, which match nothing, fill up to a power of two, so that statements are prepared once."""
        size = 1 << max(0, len(rows) - 1).bit_length()
        text = self._sized.get((sql, size))
        if text is None:
            row = f"({', '.join('?' * len(columns))})"
            text = self._sized[sql, size] = sql.replace(self._ROWS, ", ".join([row] * size))
        values = [v.decode() if type(v) is bytes else v for row in rows for v in row]
        return Query(text, (*values, *(None,) * (len(columns) * (size - len(rows)))), selects)

    def trouble(self, error: BaseException) -> Trouble:
        """See `Dialect.trouble`."""
        if not isinstance(error, sqlite3.Error):
            return Trouble.REFUSED if isinstance(error, OSError) else Trouble.UNKNOWN
        code = getattr(error, "sqlite_errorcode", None) or 0
        if isinstance(error, sqlite3.IntegrityError):
            return Trouble.DUPLICATE
        return Trouble.REFUSED if code & 0xFF in self._REMEDIES else Trouble.UNKNOWN

    def explain(self, error: BaseException) -> Unavailable:
        """See `Dialect.explain`."""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        remedy = self._REMEDIES.get(code, "Look at metald's log.")
        if isinstance(error, OSError):
            remedy = _FILE_REMEDIES.get(error.errno or 0, remedy)
        return Unavailable(f"The database cannot be used: {error}.", remedy=remedy)


_FILE_REMEDIES = {
    errno.ENOENT: "The database file is gone: restore it, and start metald again.",
    errno.EACCES: Sqlite._REMEDIES[sqlite3.SQLITE_PERM],
    errno.EPERM: Sqlite._REMEDIES[sqlite3.SQLITE_PERM],
    errno.EROFS: Sqlite._REMEDIES[sqlite3.SQLITE_READONLY],
    errno.ENOSPC: Sqlite._REMEDIES[sqlite3.SQLITE_FULL],
}


class Postgres:
    """PostgreSQL 13 or later, through asyncpg."""

    name = "postgresql"
    begin = "BEGIN"
    receipt = "CAST(pg_current_xact_id() AS text)"

    _REMEDIES: ClassVar[dict[str, str]] = {
        "53100": "The disk of the database server is full: make room on it, and repeat the request.",
        "53300": "The database server has too many connections: raise its max_connections.",
        "25006": "The server is a read-only standby: set store.url to the primary.",
        "28": "The database server refused user or password: correct store.url.",
        "3D": "There is no such database: create it, or correct store.url.",
        "42501": "The database user lacks privileges: let it own metald's tables.",
    }
    _AGAIN = ("08", "57P", "40001", "40P01", "25006", "53300")

    def mark(self, position: int) -> str:
        """See `Dialect.mark`."""
        return f"${position}"

    def source(self, columns: Sequence[Column]) -> str:
        """See `Dialect.source`."""
        arrays = ", ".join(f"CAST(${i} AS {type_}[])" for i, (_, type_) in enumerate(columns, 1))
        names = ", ".join(name for name, _ in columns)
        return f"unnest({arrays}) WITH ORDINALITY AS src({names}, ord)"

    def every(self, columns: Sequence[Column]) -> str:
        """See `Dialect.every`."""
        del columns
        return " ORDER BY src.ord"

    def query(self, sql: str, columns: Sequence[Column], rows: Sequence[Row], *, selects: bool = False) -> Query:
        """See `Dialect.query`."""
        arrays = [[v.decode() if type(v) is bytes else v for v in values] for values in zip(*rows, strict=True)]
        return Query(sql, tuple(arrays) or ([],) * len(columns), selects)

    def trouble(self, error: BaseException) -> Trouble:
        """See `Dialect.trouble`."""
        import asyncpg  # only those with PostgreSQL need it

        if isinstance(error, asyncpg.UniqueViolationError):
            return Trouble.DUPLICATE
        state = _sqlstate(error)
        if state.startswith(self._AGAIN) or (not state and isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError)):
            return Trouble.LOST
        if state.startswith(("53", "58", "28", "3D", "42501")):
            return Trouble.REFUSED
        return Trouble.UNKNOWN

    def explain(self, error: BaseException) -> Unavailable:
        """See `Dialect.explain`."""
        state = _sqlstate(error)
        remedy = next((text for key, text in self._REMEDIES.items() if state.startswith(key)), "")
        remedy = remedy or "See that the database server runs and can be reached; a metald that runs goes on by itself when it is back."
        return Unavailable(f"The database cannot be used: {str(error) or type(error).__name__}.", remedy=remedy)


def _sqlstate(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""
