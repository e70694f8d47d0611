"""One batch, one transaction: what is written in which order, and whose fault it is when it cannot be.

The counter's row is taken first. It gives the events their numbers in the order of commits, and it is the lock that
lets several daemons write to one PostgreSQL without deadlocks. Then come deletes, updates, inserts, journal, events.
Every statement reports what it did; if a change did not get all of its rows, everything is rolled back and the batch
is tried again without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metald.errors import MetaldError
from metald.model import Resource
from metald.store.batch import Batch, RowChange, Submission, duplicate, stale
from metald.store.database import Session
from metald.store.kinds import Kind
from metald.store.statements import Statements

Rows = list[tuple[Submission, RowChange]]


@dataclass(frozen=True, slots=True)
class Written:
    """A transaction that is ready to be committed, or was."""

    batch: Batch
    last_seq: int
    receipt: Any
    ids: dict[str, int]
    """The ids that new rows got, by UUID."""


class Rejected(Exception):
    """Some changes of a batch cannot be made; the transaction has to be rolled back.

    Args:
        failed: the error of each change that fails, by `id()` of its submission.
        deferred: changes that may succeed after others of the same batch, by `id()`.
        explained: whether the next try of the rest is another one than this was.
    """

    def __init__(self, failed: dict[int, MetaldError], deferred: set[int] | None = None, *, explained: bool = True) -> None:
        super().__init__(f"{len(failed)} changes cannot be made")
        self.failed = failed
        self.deferred = deferred or set()
        self.explained = explained


async def write(session: Session, statements: Statements, batch: Batch) -> Written:
    """Everything but BEGIN and COMMIT.

    Raises:
        Rejected: some of the changes are out of date.
    """
    events = [event for s in batch for event in s.events]
    (counted,) = await session.fetch(*_query(statements.count(len(events))))
    last_seq, receipt = counted[0], counted[1]
    await _release(session, statements, batch)
    missing: dict[int, MetaldError] = {}
    for kind, rows in batch.rows("delete").items():
        missing |= _missing(rows, await session.fetch(*_query(statements.delete(kind, [row for _, row in rows]))))
    for kind, rows in batch.rows("update").items():
        missing |= _missing(rows, await session.fetch(*_query(statements.update(kind, [row for _, row in rows]))))
    if missing:
        raise Rejected(missing)
    ids: dict[str, int] = {}
    for kind, rows in batch.rows("insert").items():
        ids.update((row[0], row[1]) for row in await session.fetch(*_query(statements.insert(kind, [row for _, row in rows]))))
    if journal := [line for s in batch for line in s.journal]:
        await session.fetch(*_query(statements.journal(journal)))
    if events:
        docs = (doc for s in batch for doc in s.event_docs)
        first = last_seq - len(events) + 1
        lines = [(first + i, event.node_uuid, event.time, doc) for i, (event, doc) in enumerate(zip(events, docs, strict=True))]
        await session.fetch(*_query(statements.events(lines)))
    return Written(batch, last_seq, receipt, ids)


async def diagnose(session: Session, statements: Statements, batch: Batch) -> Rejected:
    """Find out, after a unique value turned out to be taken, which changes of the batch cannot be made.

    A value whose owner gives it up in the same change is no fault: the change is told to release it first. One whose
    owner may give it up in another change of the batch puts the claimant off to the next batch.
    """
    failed: dict[int, MetaldError] = {}
    deferred: set[int] = set()
    released = False
    leaving = {(row.kind.type, row.resource.uuid): s for s in batch for row in (*s.deletes, *s.saves)}
    for (kind, field), wanted in _claims(batch).items():
        for value, owner in await session.fetch(*_query(statements.owners(kind, field, list(wanted)))):
            submission, row = wanted[value]
            if field == "uuid":
                failed[id(submission)] = duplicate(kind, field, value)
                continue
            if owner == row.resource.uuid:
                continue
            giver = leaving.get((kind.type, owner))
            if giver is None:
                failed[id(submission)] = duplicate(kind, field, value)
            elif giver is not submission:
                deferred.add(id(submission))
            elif (kind, field, owner) not in submission.releases:
                submission.releases.append((kind, field, owner))
                released = True
    return Rejected(failed, deferred - failed.keys(), explained=bool(failed or deferred or released))


def _claims(batch: Batch) -> dict[tuple[Kind[Resource], str], dict[Any, tuple[Submission, RowChange]]]:
    claims: dict[tuple[Kind[Resource], str], dict[Any, tuple[Submission, RowChange]]] = {}
    for s in batch:
        for row in s.saves:
            for field in (*row.kind.columns, *(() if row.expected else ("uuid",))):
                value = getattr(row.resource, field)
                if value is not None:
                    claims.setdefault((row.kind, field), {})[value] = (s, row)
    return claims


async def _release(session: Session, statements: Statements, batch: Batch) -> None:
    wanted: dict[tuple[Kind[Resource], str], list[str]] = {}
    for s in batch:
        for kind, field, uuid in s.releases:
            wanted.setdefault((kind, field), []).append(uuid)
    for (kind, field), uuids in wanted.items():
        await session.fetch(*_query(statements.release(kind, field, uuids)))


def _missing(rows: Rows, found: Any) -> dict[int, MetaldError]:
    done = {row[0] for row in found}
    return {id(s): stale(row) for s, row in rows if row.resource.uuid not in done}


def _query(query: tuple[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    return (query[0], *query[1])
