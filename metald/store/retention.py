"""Letting go of the past: events, journal lines and ended workflows older than the retention time.

Rules: one call does bounded work. Events are deleted from the oldest on and only as an unbroken run, so that the
numbers that are left have no gap. Events that a cursor has not passed are kept longer, up to a bound.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from metald.config import StoreSettings
from metald.model import Workflow, now
from metald.model.cursor import Cursor
from metald.store.changes import Change
from metald.store.dialects import Query
from metald.store.transaction import Steps
from metald.store.writer import StateWriter

if TYPE_CHECKING:
    from metald.store.store import Store

_log = logging.getLogger(__name__)


def horizon(settings: StoreSettings) -> datetime:
    """The time before which things may go."""
    return now() - timedelta(days=settings.event_retention_days)


async def purge(store: Store, writer: StateWriter, before: datetime, unread_before: datetime, limit: int) -> int:
    """See `Store.purge`."""
    ended = [w for w in store.table(Workflow) if w.state.ended and (w.ended_at or w.started_at) < before][:limit]
    if ended:
        await store.commit(Change(delete=list(ended)))
    read = min((cursor.seq for cursor in store.table(Cursor)), default=store.last_seq)
    return len(ended) + await writer.perform(_purge_lines(before.timestamp(), unread_before.timestamp(), read, limit))


async def forget_readers(store: Store, owner: str) -> None:
    """Let go of the places of readers that this daemon has no more: events need not be kept for them.

    In a database that daemons share, those of others stay.

    Args:
        store: the state.
        owner: this conductor's name.

    Raises:
        Unavailable: the database cannot be used now.
    """
    idle = [cursor for cursor in store.table(Cursor) if cursor.owner == owner or not store.shared]
    for cursor in idle:
        waiting = store.last_seq - cursor.seq
        _log.warning("events are not published any more: the place %r is let go, with %d events unpublished", cursor.name, waiting)
    if idle:
        await store.commit(Change(delete=list(idle)))


def _purge_lines(moment: float, unread: float, read: int, limit: int) -> Steps[int]:
    oldest = yield Query(f"SELECT seq, time FROM events ORDER BY seq LIMIT {limit:d}", selects=True)  # noqa: S608
    run = list(takewhile(lambda row: row[1] < (moment if row[0] <= read else min(moment, unread)), oldest))
    if run:
        yield Query(f"DELETE FROM events WHERE seq <= {run[-1][0]:d}")  # noqa: S608
    first = f"SELECT id FROM journal ORDER BY id LIMIT {limit:d}"  # noqa: S608
    lines = yield Query(f"DELETE FROM journal WHERE time < {moment!r} AND id IN ({first})")  # noqa: S608
    return len(run) + int(lines)
