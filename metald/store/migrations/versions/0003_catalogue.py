"""What is kept beside machines: port groups, allocations, templates, runbooks, rules, volumes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES: dict[str, tuple[str, ...]] = {
    "portgroups": ("address", "name"),
    "allocations": ("name",),
    "deploy_templates": ("name",),
    "runbooks": ("name",),
    "inspection_rules": (),
    "volume_connectors": ("key",),
    "volume_targets": ("key",),
}


def upgrade() -> None:
    """Create the tables."""
    for table, unique in _TABLES.items():
        op.create_table(
            table,
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
            sa.Column("uuid", sa.Text(), nullable=False),
            sa.Column("version", sa.BigInteger(), nullable=False),
            *(sa.Column(field, sa.Text(), nullable=True) for field in unique),
            sa.Column("doc", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
            *(sa.UniqueConstraint(field, name=f"uq_{table}_{field}") for field in ("uuid", *unique)),
        )


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)
