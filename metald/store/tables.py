"""The SQL tables, made from the registry of kinds. The migrations create them; a test holds the two together.

Times are seconds since 1970 (double), so that both databases compare them alike. Documents are JSON text and never
`jsonb`: what is read is byte for byte what was written.
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


def _resource_table(kind: Kind[Resource], metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        kind.table,
        metadata,
        _identity(),
        sa.Column("uuid", sa.Text(), nullable=False, unique=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        *(sa.Column(field, sa.Text(), nullable=True, unique=True) for field in kind.columns),
        sa.Column("doc", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
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
        sa.Column("workflow_uuid", sa.Text(), nullable=False, index=True),
        sa.Column("node_uuid", sa.Text(), nullable=False, index=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    events = sa.Table(
        "events",
        schema,
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("node_uuid", sa.Text(), nullable=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
    )
    sa.Index(None, events.c.node_uuid, events.c.seq)
    sa.Table(
        "counters",
        schema,
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
    )
    return schema
