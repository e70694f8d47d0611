"""Letting go of the past: events, journal lines and ended workflows older than the retention time.

Rules: one call does bounded work. Events are deleted from the oldest on and only as an unbroken run, so that the
numbers that are left have no gap.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from metald.config import StoreSettings
from metald.model import Workflow, now
from metald.store.changes import Change
from metald.store.database import Session
from metald.store.writer import StateWriter

if TYPE_CHECKING:
    from metald.store.store import Store


def horizon(settings: StoreSettings) -> datetime:
    """The time before which things may go."""
    return now() - timedelta(days=settings.event_retention_days)


async def purge(store: Store, writer: StateWriter, before: datetime, limit: int) -> int:
    """See `Store.purge`."""
    moment = before.timestamp()

    async def work(session: Session) -> int:
        oldest = await session.fetch(f"SELECT seq, time FROM events ORDER BY seq LIMIT {limit:d}")  # noqa: S608
        last = 0
        gone = 0
        for seq, time in oldest:
            if time >= moment:
                break
            last, gone = seq, gone + 1
        await session.fetch(f"DELETE FROM events WHERE seq <= {last:d}")  # noqa: S608
        lines = await session.fetch(
            f"DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE id <= (SELECT min(id) FROM journal) + {limit - 1:d}) "  # noqa: S608
            f"AND time < {moment!r} RETURNING id"
        )
        return gone + len(lines)

    ended = [w for w in store.table(Workflow) if w.state.ended and (w.ended_at or w.started_at) < before]
    for workflow in ended[:limit]:
        await store.commit(Change(delete=[workflow]))
    return await writer.perform(work) + len(ended[:limit])
