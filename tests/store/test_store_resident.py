"""Rows that need not be in memory: they stay in the database at the start, may leave later, and are found there."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from metald.errors import Duplicate
from metald.model import now
from metald.model.caller import Caller
from metald.model.command import Command, CommandState
from metald.store import migrate
from metald.store.changes import Change
from metald.store.database import Database, locate
from tests.store.conftest import Place


def _command(sender_id: str, state: CommandState, **more: Any) -> Command:
    caller = Caller(user="a", request_id="r")
    return Command(verb="node.delete", sender_id=sender_id, digest="d", caller=caller, received_at=now(), state=state, **more)


ALL = (
    _command("pending", CommandState.PENDING),
    _command("answered", CommandState.ANSWERED),
    _command("settled", CommandState.SETTLED),
    _command("part", CommandState.SETTLED, parent="whole"),
)
RESIDENT = ["pending", "answered", "part"]


async def test_what_is_finished_stays_in_the_database(place: Place) -> None:
    store = await place.open()
    await store.commit(Change(save=list(ALL)))
    assert len(store.table(Command)) == 4
    await store.close()
    store = await place.open()
    try:
        table = store.table(Command)
        assert [row.sender_id for row in table] == RESIDENT
        (old,) = await store.finished(Command, 10)
        assert old.sender_id == "settled"
        assert await store.fetch(Command, old.uuid) == old
        with pytest.raises(Duplicate):
            await store.commit(Change(save=[_command("again", CommandState.PENDING, uuid=old.uuid)]))
        pending = table.get(ALL[0].uuid)
        assert pending is not None
        await store.commit(Change(save=[pending.changed(state=CommandState.SETTLED)]))
        store.release(Command, pending.uuid)
        assert [row.sender_id for row in table] == RESIDENT[1:]
        found = await store.finished(Command, 10)
        assert [row.sender_id for row in found] == ["pending", "settled"]
        await store.commit(Change(delete=list(found)))
        assert await store.finished(Command, 10) == []
    finally:
        await store.close()


async def test_rows_of_an_older_schema_are_told_apart(place: Place) -> None:
    store = await place.open()
    await store.commit(Change(save=list(ALL)))
    await store.close()
    database = Database(locate(place.settings, place.state_dir), 5.0)

    def down_and_up(connection: sa.Connection) -> int:
        from alembic import command

        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")
        names = {column["name"] for column in sa.inspect(connection).get_columns("commands")}
        command.upgrade(config, "0007")
        return len(names)

    async with database._write_engine.begin() as connection:
        assert await connection.run_sync(down_and_up) == 4
    await database.close()
    store = await place.open()
    try:
        assert [row.sender_id for row in store.table(Command)] == RESIDENT
        assert [row.sender_id for row in await store.finished(Command, 10)] == ["settled"]
    finally:
        await store.close()
