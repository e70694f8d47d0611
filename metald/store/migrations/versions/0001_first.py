"""The first schema: resources, journal, events and the counter that numbers them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_RESOURCES: dict[str, tuple[str, ...]] = {
    "chassis": (),
    "nodes": ("name", "instance_uuid"),
    "ports": ("address", "name"),
    "workflows": (),
    "conductors": ("hostname",),
}


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False)


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False)


def upgrade() -> None:
    """Create everything."""
    for table, unique in _RESOURCES.items():
        op.create_table(
            table,
            _key("id"),
            sa.Column("uuid", sa.Text(), nullable=False),
            sa.Column("version", sa.BigInteger(), nullable=False),
            *(sa.Column(field, sa.Text(), nullable=True) for field in unique),
            sa.Column("doc", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
            *(sa.UniqueConstraint(field, name=f"uq_{table}_{field}") for field in ("uuid", *unique)),
        )
    op.create_table(
        "journal",
        _identity(),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("node_uuid", sa.Text(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_journal"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_journal_node_uuid", "journal", ["node_uuid"])
    op.create_table(
        "events",
        _key("seq"),
        sa.Column("node_uuid", sa.Text(), nullable=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("doc", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
    )
    op.create_index("ix_events_node_uuid_seq", "events", ["node_uuid", "seq"])
    counters = op.create_table(
        "counters",
        _key("id"),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("resources", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_counters"),
    )
    op.bulk_insert(counters, [{"id": 1, "events": 0, "resources": 0, "batches": 0}])


def downgrade() -> None:
    """Drop everything."""
    for table in ("counters", "events", "journal", *_RESOURCES):
        op.drop_table(table)
