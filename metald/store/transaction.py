"""One batch, one transaction: what is written in which order, and whose fault it is when it cannot be.

Nothing here does input or output: the steps are generators that yield queries and are sent their results, so that a
session can run all of them in one hop to SQLite's thread, or one by one over the network.

The counters' row is taken first. It gives the events their numbers in the order of commits, and it is the lock that
lets several daemons write to one PostgreSQL without deadlocks. Then come deletes, updates, inserts, journal, events.
If any change did not find its rows as expected, or a unique value is taken, everything is rolled back, the culprits are
looked for, and the batch is tried again without them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from metald.errors import MetaldError
from metald.model import Resource
from metald.store.batch import Batch, RowChange, Submission, duplicate, stale
from metald.store.dialects import MOST_ROWS, Dialect, Query, Trouble
from metald.store.kinds import Kind
from metald.store.statements import Statements

R = TypeVar("R")
T = TypeVar("T")

Steps = Generator[Query, Any, T]


@dataclass(frozen=True, slots=True)
class Written:
    """A transaction that is ready to be committed, or was."""

    batch: Batch
    last_seq: int
    receipt: Any
    ids: dict[str, int]
    """The ids that new rows got, by UUID."""


class Rejected(Exception):
    """Some changes of a batch cannot be made; the transaction was rolled back.

    Args:
        failed: the error of each change that fails, by `id()` of its submission.
        deferred: changes that may succeed after others of the same batch, by `id()`.
        explained: whether the next try of the rest is another one than this was.
    """

    def __init__(self, failed: dict[int, MetaldError], deferred: set[int], *, explained: bool) -> None:
        super().__init__(f"{len(failed)} changes cannot be made")
        self.failed = failed
        self.deferred = deferred
        self.explained = explained


class _Mismatch(Exception):
    """Some row does not have the version that a change expects."""


def transaction(statements: Statements, steps: Steps[T], ready: Callable[[T], None] | None = None) -> Steps[T]:
    """BEGIN, the steps, COMMIT. `ready` is called with their result just before COMMIT."""
    yield statements.begin
    result = yield from steps
    if ready is not None:
        ready(result)
    yield statements.commit
    return result


def batch_steps(dialect: Dialect, statements: Statements, batch: Batch) -> Steps[Written]:
    """All of a batch inside a transaction.

    Raises:
        Rejected: some of the changes cannot be made; the transaction is rolled back.
    """
    try:
        return (yield from _write(statements, batch))
    except Exception as error:
        if not isinstance(error, _Mismatch) and dialect.trouble(error) is not Trouble.DUPLICATE:
            raise
        yield statements.rollback
        rejected = yield from _diagnose(statements, batch)
        raise rejected from error


def _write(statements: Statements, batch: Batch) -> Steps[Written]:
    events = [event for s in batch for event in s.events]
    inserts = batch.rows("insert")
    new = sum(map(len, inserts.values()))
    ((last_seq, last_id, receipt),) = yield statements.count(len(events), new)
    yield from _release(statements, batch)
    for operation, statement in (("delete", statements.delete), ("rename", statements.rename), ("update", statements.update)):
        for kind, rows in batch.rows(operation).items():
            for part in _parts([row for _, row in rows]):
                if (yield statement(kind, part)) != len(part):
                    raise _Mismatch
    ids: dict[str, int] = {}
    next_id = last_id - new + 1
    for kind, rows in inserts.items():
        for part in _parts([row for _, row in rows]):
            given = range(next_id, next_id + len(part))
            yield statements.insert(kind, part, given)
            ids.update((row.resource.uuid, i) for row, i in zip(part, given, strict=True))
            next_id += len(part)
    for lines in _parts([line for s in batch for line in s.journal]):
        yield statements.journal(lines)
    docs = [doc for s in batch for doc in s.event_docs]
    seqs = range(last_seq - len(events) + 1, last_seq + 1)
    for told in _parts([(n, e.node_uuid, e.time.timestamp(), doc) for n, e, doc in zip(seqs, events, docs, strict=True)]):
        yield statements.events(told)
    return Written(batch, last_seq, receipt, ids)


def _diagnose(statements: Statements, batch: Batch) -> Steps[Rejected]:
    """Find the changes that cannot be made.

    A unique value whose owner gives it up in the same change is no fault: the change is told to release it first. One
    whose owner may give it up in an earlier change of the batch puts the claimant off to the next batch. (Only in an
    earlier one: two changes that want each other's values would wait for each other for ever.)
    """
    failed: dict[int, MetaldError] = {}
    deferred: set[int] = set()
    released = False
    for operation in ("delete", "rename", "update"):
        for kind, rows in batch.rows(operation).items():
            matching: set[int] = set()
            for part in _parts([row for _, row in rows]):
                matching.update(row[0] for row in (yield statements.matching(kind, part)))
            failed |= {id(s): stale(row) for s, row in rows if row.resource.id not in matching}
    place = {id(s): i for i, s in enumerate(batch)}
    leaving = {(row.kind.type, row.resource.uuid): s for s in batch for row in (*s.deletes, *s.saves)}
    for (kind, field), wanted in _claims(batch).items():
        owned: list[tuple[Any, str]] = []
        for values in _parts(list(wanted)):
            owned += yield statements.owners(kind, field, values)
        for value, owner in owned:
            submission, row = wanted[value]
            if field == "uuid":
                failed.setdefault(id(submission), duplicate(kind, field, value))
                continue
            if owner == row.resource.uuid:
                continue
            giver = leaving.get((kind.type, owner))
            if giver is None or place[id(giver)] > place[id(submission)]:
                failed.setdefault(id(submission), duplicate(kind, field, value))
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


def _release(statements: Statements, batch: Batch) -> Steps[None]:
    wanted: dict[tuple[Kind[Resource], str], list[str]] = {}
    for s in batch:
        for kind, field, uuid in s.releases:
            wanted.setdefault((kind, field), []).append(uuid)
    for (kind, field), uuids in wanted.items():
        for part in _parts(uuids):
            yield statements.release(kind, field, part)


def _parts(rows: list[R]) -> list[list[R]]:
    """As many rows at a time as one statement carries."""
    return [rows[at : at + MOST_ROWS] for at in range(0, len(rows), MOST_ROWS)]
