"""What is read from the database itself: everything once at the start, events and journal when asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metald.errors import Unavailable
from metald.model import Event, Resource, StepRecord
from metald.store.kinds import Kind
from metald.store.tables import metadata

R = TypeVar("R", bound=Resource)

CHUNK = 1000
"""Rows decoded at a time: bounds memory, and how long decoding holds the loop."""

_SCHEMA = metadata().tables
_EVENTS = _SCHEMA["events"].c
_JOURNAL = _SCHEMA["journal"].c
_COUNTERS = _SCHEMA["counters"].c

_decode_event = msgspec.json.Decoder(Event).decode
_decode_record = msgspec.json.Decoder(StepRecord).decode


async def last_seq(connection: AsyncConnection) -> int:
    """The number of the newest event ever committed."""
    return int((await connection.execute(sa.select(_COUNTERS.events))).scalar_one())


async def resources(connection: AsyncConnection, kind: Kind[R]) -> AsyncIterator[list[R]]:
    """Every row of a kind that belongs in memory, in insertion order, in chunks.

    Raises:
        Unavailable: a row is not what this metald can read.
    """
    table = _SCHEMA[kind.table].c
    last = 0
    while True:
        query = sa.select(table.id, table.version, table.doc).where(table.id > last).order_by(table.id).limit(CHUNK)
        if kind.resident:
            query = query.where(table[kind.resident].is_not(None))
        found = (await connection.execute(query)).all()
        rows = [_row(kind, *row) for row in found]
        if rows:
            yield rows
        if len(found) < CHUNK:
            return
        last = found[-1][0]


async def resource(connection: AsyncConnection, kind: Kind[R], uuid: str) -> R | None:
    """One row as the database has it now.

    Raises:
        Unavailable: the row is not what this metald can read.
    """
    table = _SCHEMA[kind.table].c
    found = (await connection.execute(sa.select(table.id, table.version, table.doc).where(table.uuid == uuid))).first()
    return None if found is None else _row(kind, *found)


async def finished(connection: AsyncConnection, kind: Kind[R], limit: int) -> list[R]:
    """The oldest rows of a kind that need not be in memory.

    Raises:
        Unavailable: a row is not what this metald can read.
    """
    table = _SCHEMA[kind.table].c
    query = sa.select(table.id, table.version, table.doc).where(table[kind.resident].is_(None)).order_by(table.id).limit(limit)
    return [_row(kind, *found) for found in await connection.execute(query)]


def _row(kind: Kind[R], id_: int, version: int, doc: Any) -> R:
    try:
        found: R = msgspec.json.decode(doc, type=kind.type)
    except msgspec.DecodeError as error:
        raise Unavailable(
            f"Row {id_} of table {kind.table} cannot be read: {error}.", remedy="Restore the database from a backup."
        ) from error
    # the columns are the truth: an id is known only once the document has been written
    msgspec.structs.force_setattr(found, "id", id_)
    msgspec.structs.force_setattr(found, "version", version)
    return found


async def events(connection: AsyncConnection, *, since: int, node_uuid: str | None, limit: int, newest: bool) -> list[Event]:
    """See `Store.events`."""
    query = sa.select(_EVENTS.seq, _EVENTS.doc).where(_EVENTS.seq > since).limit(limit)
    if node_uuid is not None:
        query = query.where(_EVENTS.node_uuid == node_uuid)
    query = query.order_by(_EVENTS.seq.desc() if newest else _EVENTS.seq)
    found = [_numbered(seq, doc) for seq, doc in await connection.execute(query)]
    return found[::-1] if newest else found


@dataclass(frozen=True, slots=True)
class Page:
    """Events as they stand in the sequence, and where the sequence began and ended at that moment."""

    events: list[Event]
    first: int
    """The number of the oldest event that is kept; of the next one if none is."""
    last: int
    """The number of the newest event ever committed."""

    @property
    def end(self) -> int:
        """The number up to which nothing else was to be read: that of the last event, or of the newest when there were none."""
        return self.events[-1].seq if self.events else self.last

    def gap(self, since: int) -> int | None:
        """Where the sequence goes on for who has read up to `since`, if not behind it; None where nothing is missing.

        Numbers that are higher than any are known from before the database was restored from a backup.
        """
        if since > self.last:
            return self.last + 1
        return self.first if since + 1 < self.first else None


def _page(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """All in one statement, which sees one moment: what is purged meanwhile is missed by none or noticed by all of it."""
    oldest = sa.select(sa.func.min(_EVENTS.seq)).scalar_subquery()
    ends = sa.select(sa.func.coalesce(oldest, _COUNTERS.events + 1).label("first"), _COUNTERS.events.label("last")).subquery("ends")
    after = sa.and_(_EVENTS.seq > sa.bindparam("since", type_=sa.BigInteger), *conditions)
    most = sa.bindparam("limit", type_=sa.BigInteger)
    length = sa.func.length(_EVENTS.doc).label("length")
    run = sa.select(_EVENTS.seq, length).where(after).order_by(_EVENTS.seq).limit(most).subquery("run").c
    sized = sa.select(run.seq, (sa.func.sum(run.length).over(order_by=run.seq) - run.length).label("ahead")).subquery("sized").c
    fits = sa.and_(_EVENTS.seq == sized.seq, sized.ahead < sa.bindparam("size", type_=sa.BigInteger))
    fitting = sa.select(_EVENTS.seq, _EVENTS.doc).where(fits).subquery("fitting")
    query = sa.select(ends.c.first, ends.c.last, fitting.c.seq, fitting.c.doc)
    return query.select_from(ends.outerjoin(fitting, sa.true())).order_by(fitting.c.seq)


_PAGE = _page()
_PAGE_OF_NODE = _page(_EVENTS.node_uuid == sa.bindparam("node_uuid", type_=sa.Text))


async def page(connection: AsyncConnection, *, since: int, node_uuid: str | None, limit: int, size: int) -> Page:
    """See `Store.page`."""
    values = {"since": since, "limit": limit, "size": size}
    if node_uuid is None:
        found = (await connection.execute(_PAGE, values)).all()
    else:
        found = (await connection.execute(_PAGE_OF_NODE, {**values, "node_uuid": node_uuid})).all()
    return Page([_numbered(seq, doc) for _, _, seq, doc in found if seq is not None], found[0].first, found[0].last)


async def journal(connection: AsyncConnection, *, node_uuid: str | None, workflow_uuid: str | None, limit: int) -> list[StepRecord]:
    """See `Store.journal`."""
    query = sa.select(_JOURNAL.doc).order_by(_JOURNAL.id.desc()).limit(limit)
    if node_uuid is not None:
        query = query.where(_JOURNAL.node_uuid == node_uuid)
    if workflow_uuid is not None:
        query = query.where(_JOURNAL.workflow_uuid == workflow_uuid)
    return [_decode_record(doc) for doc in (await connection.execute(query)).scalars()][::-1]


def _numbered(seq: int, doc: Any) -> Event:
    event = _decode_event(doc)
    msgspec.structs.force_setattr(event, "seq", seq)
    return event
