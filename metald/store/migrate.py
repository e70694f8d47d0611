"""Bringing a database to the present schema, and showing the SQL that would do it.

A migration's file is named after its revision, four digits that grow, so that a database which is up to date is recognised
without Alembic, whose import would be a good part of the daemon's start.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from metald.config import ConfigError

if TYPE_CHECKING:
    from alembic.config import Config

_VERSIONS = Path(__file__).parent / "migrations" / "versions"

_LOCK = 0x6D657461  # any number will do; it only has to be the same in every metald


def head() -> str:
    """The newest revision."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def _present(connection: sa.Connection) -> str | None:
    """The database's revision; None when it is empty."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "metald.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: sa.Connection) -> None:
    """Apply every migration that the database lacks, in the transaction that `connection` is in.

    Several daemons may do so at once on PostgreSQL: an advisory lock lets one work and the others look after it.

    Raises:
        ConfigError: the database was written by a newer metald.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    present = _present(connection)
    if present == head():
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config()
    scripts = ScriptDirectory.from_config(config)
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(f"store.url: the database has schema {present}, which this metald does not know. Start the newer metald again.")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def script(dialect: str) -> str:
    """The SQL of all migrations for `sqlite` or `postgresql`, without a database."""
    from alembic import command

    config = _config()
    config.attributes["dialect"] = dialect
    config.attributes["output"] = output = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return output.getvalue()
