"""How alembic runs our migrations: on the connection it is given, or as a script for reading."""

from __future__ import annotations

from alembic import context

_connection = context.config.attributes.get("connection")

if _connection is not None:
    context.configure(connection=_connection, transactional_ddl=True)
    context.run_migrations()
else:
    context.configure(
        dialect_name=context.config.attributes["dialect"],
        output_buffer=context.config.attributes["output"],
        as_sql=True,
        literal_binds=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
