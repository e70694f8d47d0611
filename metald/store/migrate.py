"""Bringing a database to the present schema, and showing the SQL that would do it."""

from __future__ import annotations

import io

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from metald.config import ConfigError

_LOCK = 0x6D657461  # any number will do; it only has to be the same in every metald


def _config() -> Config:
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
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    if present == scripts.get_current_head():
        return
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(f"store.url: the database has schema {present}, which this metald does not know. Start the newer metald again.")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def script(dialect: str) -> str:
    """The SQL of all migrations for `sqlite` or `postgresql`, without a database."""
    config = _config()
    config.attributes["dialect"] = dialect
    config.attributes["output"] = output = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return output.getvalue()
