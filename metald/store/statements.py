"""The writer's SQL: for each table and kind of operation one statement, however many rows it carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metald.model import Resource
from metald.store.batch import RowChange
from metald.store.dialects import Column, Dialect
from metald.store.kinds import KINDS, Kind

_JOURNAL: tuple[Column, ...] = (("workflow_uuid", "text"), ("node_uuid", "text"), ("time", "double precision"), ("doc", "text"))
_EVENTS: tuple[Column, ...] = (("seq", "bigint"), ("node_uuid", "text"), ("time", "double precision"), ("doc", "text"))
_KEYS: tuple[Column, ...] = (("uuid", "text"), ("version", "bigint"))
_VALUES: tuple[Column, ...] = (("value", "text"),)

Query = tuple[str, tuple[Any, ...]]
"""SQL and its arguments."""


@dataclass(frozen=True, slots=True)
class _KindSql:
    columns: tuple[Column, ...]
    insert: str
    update: str
    delete: str
    owners: dict[str, str]
    release: dict[str, str]


class Statements:
    """Every statement of the writer in one dialect. Table and column names come from the registry, values never."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kinds = {kind.type: _kind_sql(kind, dialect) for kind in KINDS}
        self._counter = (
            f"UPDATE counters SET value = value + {dialect.mark(1)}, batches = batches + 1 "  # noqa: S608
            f"WHERE name = 'events' RETURNING value, {dialect.receipt}"
        )
        self._journal = _append("journal", _JOURNAL, dialect)
        self._events = _append("events", _EVENTS, dialect)

    def count(self, events: int) -> Query:
        """Take sequence numbers and the lock that orders all writers. Returns (last number, receipt)."""
        return self._counter, (events,)

    def insert(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Returns (uuid, id) of each row."""
        sql = self._kinds[kind.type]
        return sql.insert, self._dialect.bind(sql.columns, [_values(row) for row in rows])

    def update(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Returns the uuid of each row that had the expected version."""
        sql = self._kinds[kind.type]
        return sql.update, self._dialect.bind(sql.columns, [_values(row) for row in rows])

    def delete(self, kind: Kind[Resource], rows: list[RowChange]) -> Query:
        """Returns the uuid of each row that had the expected version."""
        return self._kinds[kind.type].delete, self._dialect.bind(_KEYS, [(row.resource.uuid, row.expected) for row in rows])

    def owners(self, kind: Kind[Resource], field: str, values: list[Any]) -> Query:
        """Returns (value, uuid) for each of the unique values that some row has."""
        return self._kinds[kind.type].owners[field], self._dialect.bind(_VALUES, [(value,) for value in values])

    def release(self, kind: Kind[Resource], field: str, uuids: list[str]) -> Query:
        """Take a unique value from rows that get another one in the same transaction."""
        return self._kinds[kind.type].release[field], self._dialect.bind(_VALUES, [(uuid,) for uuid in uuids])

    def journal(self, lines: list[tuple[str, str, float, bytes]]) -> Query:
        """Append journal lines."""
        return self._journal, self._dialect.bind(_JOURNAL, lines)

    def events(self, lines: list[tuple[int, str | None, datetime, bytes]]) -> Query:
        """Append events that have their numbers."""
        rows = [(seq, node, time.timestamp(), doc) for seq, node, time, doc in lines]
        return self._events, self._dialect.bind(_EVENTS, rows)


def _values(row: RowChange) -> tuple[Any, ...]:
    resource = row.resource
    return (resource.uuid, row.expected, *(getattr(resource, name) for name in row.kind.columns), row.doc)


def _append(table: str, columns: tuple[Column, ...], dialect: Dialect) -> str:
    names = ", ".join(name for name, _ in columns)
    selected = ", ".join(f"src.{name}" for name, _ in columns)
    return f"INSERT INTO {table} ({names}) SELECT {selected} FROM {dialect.source(columns)}{dialect.ordered}"  # noqa: S608


def _kind_sql(kind: Kind[Resource], dialect: Dialect) -> _KindSql:
    table = kind.table
    columns: tuple[Column, ...] = (*_KEYS, *((name, "text") for name in kind.columns), ("doc", "text"))
    names = ", ".join(("uuid", "version", *kind.columns, "doc"))
    selected = ", ".join(("src.uuid", "src.version + 1", *(f"src.{name}" for name in kind.columns), "src.doc"))
    assigned = ", ".join(f"{name} = src.{name}" for name in (*kind.columns, "doc"))
    source, keys, values = dialect.source(columns), dialect.source(_KEYS), dialect.source(_VALUES)
    same = f"{table}.uuid = src.uuid AND {table}.version = src.version"
    return _KindSql(
        columns=columns,
        insert=f"INSERT INTO {table} ({names}) SELECT {selected} FROM {source}{dialect.ordered} RETURNING uuid, id",  # noqa: S608
        update=f"UPDATE {table} SET version = src.version + 1, {assigned} FROM {source} WHERE {same} RETURNING {table}.uuid",  # noqa: S608
        delete=f"DELETE FROM {table} WHERE id IN (SELECT {table}.id FROM {keys} JOIN {table} ON {same}) RETURNING uuid",  # noqa: S608
        owners={
            name: f"SELECT {table}.{name}, {table}.uuid FROM {values} JOIN {table} ON {table}.{name} = src.value"  # noqa: S608
            for name in ("uuid", *kind.columns)
        },
        release={
            name: f"UPDATE {table} SET {name} = NULL WHERE uuid IN (SELECT src.value FROM {values})"  # noqa: S608
            for name in kind.columns
        },
    )
