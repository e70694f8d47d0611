"""The SQL tables, made from the registry of kinds. The migrations create them; a test holds the two together.

Times are seconds since 1970 (double), so that both databases compare them alike. Documents are JSON text and never
`jsonb`: what is read is byte for byte what was written. The one row of `counters` holds the numbers that the last event
and the last resource got, and how many batches there were; it changes with every transaction.
"""

from __future__ import annotations

import sqlalchemy as sa

from metald.model import Resource
from metald.store.kinds import KINDS, Kind

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def _identity() -> sa.Column[int]:
    """An ever growing key: BIGINT GENERATED on PostgreSQL, INTEGER PRIMARY KEY AUTOINCREMENT on SQLite."""
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True, autoincrement=True)


def _key(name: str) -> sa.Column[int]:
    """A key whose values the writer takes from the counters. On SQLite it is the rowid."""
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False)


def _resource_table(kind: Kind[Resource], metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        kind.table,
        metadata,
        _key("id"),
        sa.Column("uuid", sa.Text(), nullable=False, unique=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        *(sa.Column(field, sa.Text(), nullable=True, unique=True) for field in kind.columns),
        sa.Column("doc", sa.Text(), nullable=False),
    )


def metadata() -> sa.MetaData:
    """The whole schema."""
    schema = sa.MetaData(naming_convention=NAMING)
    for kind in KINDS:
        _resource_table(kind, schema)
    sa.Table(
        "journal",
        schema,
        _identity(),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("node_uuid", sa.Text(), nullable=False, index=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    events = sa.Table(
        "events",
        schema,
        _key("seq"),
        sa.Column("node_uuid", sa.Text(), nullable=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
    )
    sa.Index(None, events.c.node_uuid, events.c.seq)
    sa.Table(
        "counters",
        schema,
        _key("id"),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("resources", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
    )
    return schema
