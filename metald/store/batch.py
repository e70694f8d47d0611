"""Changes on their way to the database: encoded once by their callers, gathered into batches by the writer.

Within a batch no two changes touch the same row, nor claim or give up the same unique value. So each of them succeeds
or fails by itself, and what the batch leaves behind is what its changes, one by one, would have left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from metald.errors import Duplicate, Invalid, StaleVersion
from metald.model import Event, Resource
from metald.store.changes import Change, Committed
from metald.store.kinds import BY_TYPE, Kind

MAX_EVENT = 64 << 10
"""Largest event, in bytes of JSON. Every watcher and the broker get all of them."""
MAX_CHANGES = 500
"""Most changes in one batch: bounds how long installing it holds the loop."""
MAX_BYTES = 8 << 20
"""Size of documents at which a batch is full; the last change may be larger than what was left."""

_encode = msgspec.json.Encoder().encode

Key = tuple[type[Resource], str, Any]
Current = Callable[[Kind[Resource], str], Resource | None]
"""Looks a row up in memory."""


@dataclass(slots=True)
class RowChange:
    """One row to insert, update or delete; `resource` is the copy to be installed, or the row to delete."""

    kind: Kind[Resource]
    resource: Resource
    expected: int
    """The version that the row must have; 0 for a new row."""
    doc: bytes = b""
    renamed: bool = False
    """Whether a unique value may differ from what the row has now."""

    @property
    def operation(self) -> str:
        """`insert`, `rename` or `update`; the last leaves the unique columns and their indexes alone."""
        if not self.expected:
            return "insert"
        return "rename" if self.renamed else "update"


@dataclass(slots=True)
class Submission:
    """One Change, encoded, with the future that its caller awaits."""

    saves: list[RowChange]
    deletes: list[RowChange]
    journal: list[tuple[str, str, float, bytes]]
    events: list[Event]
    event_docs: list[bytes]
    keys: set[Key]
    size: int
    future: asyncio.Future[Committed]
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is known what became of the change. A caller that is cancelled takes the future with it, but not this."""
    releases: list[tuple[Kind[Resource], str, str]] = field(default_factory=list)
    """(kind, field, uuid): unique values that a row must let go of before another row of this change can have them."""

    def succeed(self, committed: Committed) -> None:
        """Tell the caller."""
        self.settled.set()
        if not self.future.done():
            self.future.set_result(committed)

    def fail(self, error: BaseException) -> None:
        """Tell the caller."""
        self.settled.set()
        if not self.future.done():
            self.future.set_exception(error)

    async def outcome(self) -> Committed:
        """What became of the change. A caller that is cancelled meanwhile leaves when that is known; cancelled twice, at once."""
        try:
            return await self.future
        except asyncio.CancelledError:
            await self.settled.wait()
            raise


def duplicate(kind: Kind[Resource], name: str, value: Any) -> Duplicate:
    """The error for a unique value that is taken."""
    return Duplicate(kind.taken(name, value), field=name)


def stale(row: RowChange) -> StaleVersion:
    """The error for a row that is not as its changer saw it."""
    return StaleVersion(
        f"The {row.kind.noun} {row.resource.uuid} was changed or deleted by somebody else meanwhile.",
        remedy="Read it again and repeat the change.",
    )


def submit(change: Change, current: Current) -> Submission:
    """Encode a Change. Runs in the caller, so that what cannot be stored concerns nobody else.

    Args:
        change: what to store.
        current: looks a row up in memory.

    Raises:
        Invalid: a value cannot be stored, or an event is too large.
        Duplicate: the change gives one unique value to two rows.
        ValueError: the change names a row twice, or a class that is no kind.
    """
    keys: set[Key] = set()
    freed: set[Key] = set()
    try:
        saves = [_save(resource, current, keys, freed) for resource in change.save]
        deletes = [_delete(resource, current, keys, freed) for resource in change.delete]
        journal = [(r.workflow_uuid, r.node_uuid, r.ended_at.timestamp(), _encode(r)) for r in change.journal]
        docs = [_event(event) for event in change.events]
        for record in change.journal:
            _storable(record.workflow_uuid, "workflow_uuid")
            _storable(record.node_uuid, "node_uuid")
    except (UnicodeEncodeError, RecursionError) as error:
        raise Invalid(f"A value cannot be stored: {error}.", remedy="Use text of valid Unicode, and less nesting.") from error
    size = sum(len(row.doc) for row in saves) + sum(len(line[3]) for line in journal) + sum(map(len, docs))
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
    return Submission(saves, deletes, journal, list(change.events), docs, keys | freed, size, future)


def _save(resource: Resource, current: Current, keys: set[Key], freed: set[Key]) -> RowChange:
    kind = _kind_of(resource)
    _claim_row(kind, resource, keys)
    saved = msgspec.structs.replace(resource, version=resource.version + 1)
    row = RowChange(kind, saved, resource.version, _encode(saved))
    old = current(kind, resource.uuid) if resource.version else None
    known = old is not None and (old.id, old.version) == (resource.id, resource.version)
    for name in kind.columns:
        value = getattr(resource, name)
        if not (known and getattr(old, name) == value):
            row.renamed = True
            _free(kind, name, old, freed)
        if value is not None:
            _storable(value, name)
            if (kind.type, name, value) in keys:
                raise duplicate(kind, name, value)
            keys.add((kind.type, name, value))
    return row


def _delete(resource: Resource, current: Current, keys: set[Key], freed: set[Key]) -> RowChange:
    kind = _kind_of(resource)
    _claim_row(kind, resource, keys)
    old = current(kind, resource.uuid)
    for name in kind.columns:
        _free(kind, name, old, freed)
    return RowChange(kind, resource, resource.version)


def _event(event: Event) -> bytes:
    if event.node_uuid is not None:
        _storable(event.node_uuid, "node_uuid")
    doc = _encode(event)
    if len(doc) > MAX_EVENT:
        raise Invalid(f"An event of type {event.type} has {len(doc)} bytes; at most {MAX_EVENT} are possible.", field="data")
    return doc


def _kind_of(resource: Resource) -> Kind[Resource]:
    kind = BY_TYPE.get(type(resource))
    if kind is None:
        raise ValueError(f"{type(resource).__name__} is not a kind of resource; see store/kinds.py")
    return kind


def _claim_row(kind: Kind[Resource], resource: Resource, keys: set[Key]) -> None:
    _storable(resource.uuid, "uuid")
    key = (kind.type, "uuid", resource.uuid)
    if key in keys:
        raise ValueError(f"one change names the {kind.noun} {resource.uuid} twice")
    keys.add(key)


def _free(kind: Kind[Resource], name: str, old: Resource | None, freed: set[Key]) -> None:
    value = getattr(old, name, None)
    if value is not None:
        freed.add((kind.type, name, value))


def _storable(value: str, name: str) -> None:
    if "\0" in value:
        raise Invalid(f"The {name} holds a NUL character.", remedy="Remove it.", field=name)
    value.encode()


class Batch:
    """Changes that go to the database in one transaction."""

    def __init__(self, submissions: list[Submission]) -> None:
        self.submissions = submissions

    def rows(self, operation: str) -> dict[Kind[Resource], list[tuple[Submission, RowChange]]]:
        """The rows to `insert`, `update`, `rename` or `delete`, by kind, in the order of the changes."""
        found: dict[Kind[Resource], list[tuple[Submission, RowChange]]] = {}
        for submission in self.submissions:
            for row in submission.deletes if operation == "delete" else submission.saves:
                if operation in ("delete", row.operation):
                    found.setdefault(row.kind, []).append((submission, row))
        return found

    def without(self, gone: set[int]) -> Batch:
        """The batch without the submissions whose `id()` is given."""
        return Batch([s for s in self.submissions if id(s) not in gone])

    def __bool__(self) -> bool:
        return bool(self.submissions)

    def __iter__(self) -> Iterator[Submission]:
        return iter(self.submissions)


def gather(waiting: deque[Submission]) -> Batch:
    """Take the next batch from the queue. What collides with an earlier change stays, in its order."""
    taken: list[Submission] = []
    left: list[Submission] = []
    keys: set[Key] = set()
    size = 0
    while waiting and len(taken) < MAX_CHANGES and len(left) < MAX_CHANGES and size < MAX_BYTES:
        submission = waiting.popleft()
        if keys.isdisjoint(submission.keys):
            taken.append(submission)
            size += submission.size
        else:
            left.append(submission)
        keys |= submission.keys
    waiting.extendleft(reversed(left))
    return Batch(taken)
