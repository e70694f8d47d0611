"""Commands to which something may still happen are told from the others without reading all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _fact(name: str) -> str:
    """How a field of the document is read."""
    if op.get_context().dialect.name == "sqlite":
        return f"json_extract(CAST(doc AS TEXT), '$.{name}')"
    return f"CAST(doc AS json) ->> '{name}'"


def _rebuild(*more: sa.Column[str] | sa.UniqueConstraint) -> None:
    """Make the table anew, beside the old one: SQLite adds no constraints to a table."""
    op.rename_table("commands", "commands_before")
    op.create_table(
        "commands",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        *more,
        sa.Column("doc", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
        sa.UniqueConstraint("uuid", name="uq_commands_uuid"),
    )
    op.execute("INSERT INTO commands (id, uuid, version, doc) SELECT id, uuid, version, doc FROM commands_before")
    op.drop_table("commands_before")


def upgrade() -> None:
    """Add the column, and fill it."""
    column, unique = sa.Column("unfinished", sa.Text(), nullable=True), ["unfinished"]
    if op.get_context().dialect.name == "sqlite":
        _rebuild(column, sa.UniqueConstraint(*unique, name="uq_commands_unfinished"))
    else:
        op.add_column("commands", column)
        op.create_unique_constraint("uq_commands_unfinished", "commands", unique)
    state, parent = _fact("state"), _fact("parent")
    op.execute(f"UPDATE commands SET unfinished = uuid WHERE COALESCE({state}, '') <> 'settled' OR {parent} IS NOT NULL")  # noqa: S608


def downgrade() -> None:
    """Drop the column."""
    if op.get_context().dialect.name == "sqlite":
        _rebuild()
    else:
        op.drop_constraint("uq_commands_unfinished", "commands")
        op.drop_column("commands", "unfinished")
