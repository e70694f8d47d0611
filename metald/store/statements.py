"""The writer's SQL: for each table and kind of operation one statement, which carries up to `MOST_ROWS` rows.

No statement returns a row for each row it writes: SQLite's driver would hand the interpreter's lock over for every one
of them. A count tells whether all rows were as expected; only if not, the database is asked which were not. A row is
known by id and version: a UUID that was deleted and made again has another id, which no old copy of it matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metald.model import Resource
from metald.store.batch import RowChange
from metald.store.dialects import Column, Dialect, Query
from metald.store.kinds import KINDS, Kind

_JOURNAL: tuple[Column, ...] = (("workflow_uuid", "text"), ("node_uuid", "text"), ("time", "double precision"), ("doc", "text"))
_EVENTS: tuple[Column, ...] = (("seq", "bigint"), ("node_uuid", "text"), ("time", "double precision"), ("doc", "text"))
_KEYS: tuple[Column, ...] = (("id", "bigint"), ("uuid", "text"), ("version", "bigint"))
_DOCUMENTS: tuple[Column, ...] = (*_KEYS, ("doc", "text"))
_VALUES: tuple[Column, ...] = (("value", "text"),)


@dataclass(frozen=True, slots=True)
class _KindSql:
    columns: tuple[Column, ...]
    insert: str
    update: str
    rename: str
    delete: str
    owners: dict[str, str]
    release: dict[str, str]
    matching: str


class Statements:
    """Every statement of the writer in one dialect. Table and column names come from the registry, values never."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kinds = {kind.type: _kind_sql(kind, dialect) for kind in KINDS}
        numbers = f"events = events + {dialect.mark(1)}, resources = resources + {dialect.mark(2)}, batches = batches + 1"
        self._count = f"UPDATE counters SET {numbers} RETURNING events, resources, {dialect.receipt}"  # noqa: S608
        self._journal = _append("journal", _JOURNAL, dialect)
        self._events = _append("events", _EVENTS, dialect)
        self.begin = Query(dialect.begin)
        self.commit = Query("COMMIT")
        self.rollback = Query("ROLLBACK")

    def count(self, events: int, resources: int) -> Query:
        """Take numbers, and the lock that orders all writers. Selects (last event, last resource, receipt)."""
        return Query(self._count, (events, resources), selects=True)

    def insert(self, kind: Kind[Resource], rows: list[RowChange], ids: range) -> Query:
        """Insert rows with these ids."""
        sql = self._kinds[kind.type]
        return self._dialect.query(sql.insert, sql.columns, [_values(row, i) for row, i in zip(rows, ids, strict=True)])

    def update(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Replace the documents of the rows that have the expected versions."""
        values = [(row.resource.id, row.resource.uuid, row.expected, row.doc) for row in rows]
        return self._dialect.query(self._kinds[kind.type].update, _DOCUMENTS, values)

    def rename(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Replace documents and unique values of the rows that have the expected versions."""
        sql = self._kinds[kind.type]
        return self._dialect.query(sql.rename, sql.columns, [_values(row, row.resource.id) for row in rows])

    def delete(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Delete the rows that have the expected versions."""
        keys = [(row.resource.id, row.resource.uuid, row.expected) for row in rows]
        return self._dialect.query(self._kinds[kind.type].delete, _KEYS, keys)

    def matching(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Selects the ids of the rows that have the expected versions."""
        keys = [(row.resource.id, row.resource.uuid, row.expected) for row in rows]
        return self._dialect.query(self._kinds[kind.type].matching, _KEYS, keys, selects=True)

    def owners(self, kind: Kind[Resource], field: str, values: list[Any]) -> Query:
        """Selects (value, uuid) for each of the unique values that some row has."""
        return self._dialect.query(self._kinds[kind.type].owners[field], _VALUES, [(value,) for value in values], selects=True)

    def release(self, kind: Kind[Resource], field: str, uuids: list[str]) -> Query:
        """Take a unique value from rows that get another one in the same transaction."""
        return self._dialect.query(self._kinds[kind.type].release[field], _VALUES, [(uuid,) for uuid in uuids])

    def journal(self, lines: list[tuple[str, str, float, bytes]]) -> Query:
        """Append journal lines."""
        return self._dialect.query(self._journal, _JOURNAL, lines)

    def events(self, lines: list[tuple[int, str | None, float, bytes]]) -> Query:
        """Append events that have their numbers."""
        return self._dialect.query(self._events, _EVENTS, lines)


def _values(row: RowChange, id_: int) -> tuple[Any, ...]:
    resource = row.resource
    return (id_, resource.uuid, row.expected, *(getattr(resource, name) for name in row.kind.columns), row.doc)


def _append(table: str, columns: tuple[Column, ...], dialect: Dialect) -> str:
    names = ", ".join(name for name, _ in columns)
    selected = ", ".join(f"src.{name}" for name, _ in columns)
    return f"INSERT INTO {table} ({names}) SELECT {selected} FROM {dialect.source(columns)}{dialect.every(columns)}"  # noqa: S608


def _kind_sql(kind: Kind[Resource], dialect: Dialect) -> _KindSql:
    table = kind.table
    columns: tuple[Column, ...] = (*_KEYS, *((name, "text") for name in kind.columns), ("doc", "text"))
    names = ", ".join(name for name, _ in columns)
    selected = ", ".join(("src.id", "src.uuid", "src.version + 1", *(f"src.{name}" for name in kind.columns), "src.doc"))
    assigned = ", ".join(f"{name} = src.{name}" for name in (*kind.columns, "doc"))
    source, documents = dialect.source(columns), dialect.source(_DOCUMENTS)
    keys, values = dialect.source(_KEYS), dialect.source(_VALUES)
    same = f"{table}.id = src.id AND {table}.uuid = src.uuid AND {table}.version = src.version"
    return _KindSql(
        columns=columns,
        insert=f"INSERT INTO {table} ({names}) SELECT {selected} FROM {source}{dialect.every(columns)}",  # noqa: S608
        update=f"UPDATE {table} SET version = src.version + 1, doc = src.doc FROM {documents} WHERE {same}",  # noqa: S608
        rename=f"UPDATE {table} SET version = src.version + 1, {assigned} FROM {source} WHERE {same}",  # noqa: S608
        delete=f"DELETE FROM {table} WHERE id IN (SELECT {table}.id FROM {keys} JOIN {table} ON {same})",  # noqa: S608
        owners={
            name: f"SELECT {table}.{name}, {table}.uuid FROM {values} JOIN {table} ON {table}.{name} = src.value"  # noqa: S608
            for name in ("uuid", *kind.columns)
        },
        release={
            name: f"UPDATE {table} SET {name} = NULL WHERE uuid IN (SELECT src.value FROM {values})"  # noqa: S608
            for name in kind.columns
        },
        matching=f"SELECT {table}.id FROM {keys} JOIN {table} ON {same}",  # noqa: S608
    )
