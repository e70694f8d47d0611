"""Store: the fleet's state, durable in a database and whole in memory.

Rules: reads come from memory and never wait. Every write is a `Change`, all of it or nothing, durable when `commit`
returns; then memory shows it, then subscribers are told, in the order of sequence numbers. Sequence numbers of events
grow without gaps. Whoever reads, decides and writes about one node holds `owning` meanwhile.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from metald.config import StoreSettings
from metald.metrics import Histogram
from metald.model import Event, Node, Resource, StepRecord
from metald.model.event import Standing
from metald.store import queries, retention
from metald.store.changes import Change, Committed
from metald.store.database import Database, locate, private_directory
from metald.store.kinds import BY_TYPE, KINDS
from metald.store.locks import KeyedLocks
from metald.store.memory import Memory
from metald.store.ride import present
from metald.store.standings import Standings
from metald.store.transaction import Written
from metald.store.watches import Watches
from metald.store.writer import StateWriter
from metald.turns import Calls

_log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

Subscriber = Callable[[Sequence[Event]], None]

_TOLD_EACH_ROUND = 8
"""Callers whose change is durable that go on in one round of the loop; requests are not held up by more."""


class Store:
    """Use `Store.open`."""

    def __init__(self, database: Database, settings: StoreSettings) -> None:
        self._database = database
        self._settings = settings
        self._tables: dict[type[Resource], Memory[Any]] = {kind.type: Memory(kind) for kind in KINDS}
        self._standings = Standings(self._tables[Node])
        self._locks = KeyedLocks()
        self._subscribers: list[Subscriber] = []
        self.watches = Watches()
        """Who waits for one row to change."""
        self._writer = StateWriter(database, lambda kind, uuid: self._tables[kind.type].get(uuid), self._install)
        self._outcomes = Calls(_TOLD_EACH_ROUND)
        self.changes = 0
        self.batches = 0
        self.last_seq: int = 0
        """The sequence number of the newest event that memory and subscribers know."""

    @classmethod
    async def open(cls, settings: StoreSettings, state_dir: Path) -> Store:
        """Bring the database to the present schema, load it, and begin to take changes.

        Raises:
            ConfigError: the settings are wrong, or a newer metald wrote the database.
            Unavailable: the database cannot be used.
        """
        private_directory(state_dir)
        store = cls(Database(locate(settings, state_dir), settings.timeout), settings)
        try:
            await store._database.prepare()
            await store._load()
        except BaseException:
            await store._database.close()
            raise
        # what was loaded lives as long as the daemon: no collection needs to look at it again
        gc.freeze()
        store._writer.start()
        return store

    async def close(self) -> None:
        """Finish the changes that were accepted, then let go of the database. May be called twice."""
        await self._writer.close()
        await self._database.close()
        gc.unfreeze()

    @property
    def file(self) -> Path | None:
        """The database's file, or None when it is on a server."""
        return self._database.file

    @property
    def commit_seconds(self) -> Histogram:
        """How long transactions took."""
        return self._writer.seconds

    @property
    def alive(self) -> bool:
        """Whether the store takes changes; false after its writer died of a defect."""
        return self._writer.alive

    def table(self, kind: type[R]) -> Memory[R]:
        """The in-memory table of a resource class.

        Raises:
            KeyError: the class is not in the registry of kinds.
        """
        return self._tables[kind]

    def standing(self, uuid: str) -> Standing | None:
        """How a node stands, or stood when it was deleted a while ago; None of a node that is not known."""
        return self._standings.now(uuid)

    async def commit(self, change: Change) -> Committed:
        """Make a change durable and visible, all of it or nothing.

        Cancelling the caller does not undo the change: the cancellation is delivered when the change is settled.

        Raises:
            StaleVersion: a row is no longer as the change assumes.
            Duplicate: a unique value is taken; `field` names it.
            Invalid: a value cannot be stored, or an event is too large.
            Unavailable: the database cannot be used now.
        """
        change = self._standings.noted(change)
        ride = present()
        carried = None if ride is None else ride.board(change)
        if ride is None or carried is None:
            return await self._writer.commit(change)
        try:
            done = await self._writer.commit(carried)
        except BaseException:
            ride.arrive(None)
            raise
        ride.arrive(done.saved[-1])
        return Committed(done.saved[:-1], done.events)

    def owning(self, uuid: str) -> AbstractAsyncContextManager[None]:
        """Hold one node for read, decide and commit. Not reentrant; first come, first served."""
        return self._locks.holding(uuid)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Have `callback` called with the events of each batch, in order, after memory shows them. Returns the way out.

        The callback must not block; its errors are logged and concern nobody else.
        """
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    async def fetch(self, kind: type[R], uuid: str) -> R | None:
        """A row as the database has it now, which another daemon may have written; `table` is faster where none can.

        Raises:
            Unavailable: the database cannot be used now.
        """
        async with self._database.reading() as connection:
            found: R | None = await queries.resource(connection, BY_TYPE[kind], uuid)  # type: ignore[assignment]
            return found

    async def finished(self, kind: type[R], limit: int) -> list[R]:
        """The oldest rows of a kind that need not be in memory, as the database has them.

        Raises:
            Unavailable: the database cannot be used now.
        """
        async with self._database.reading() as connection:
            return await queries.finished(connection, BY_TYPE[kind], limit)  # type: ignore[arg-type]

    def release(self, kind: type[R], uuid: str) -> None:
        """Let a row leave memory that need not be there (`Kind.resident`); `fetch` finds it."""
        self._tables[kind].install((), (uuid,))

    async def refresh(self, kind: type[R], uuid: str) -> R | None:
        """`fetch`, and have memory show it too, where another daemon has written or deleted the row.

        Raises:
            Unavailable: the database cannot be used now.
        """
        found = await self.fetch(kind, uuid)
        present = self._tables[kind].get(uuid)
        if found is None:
            if present is not None:
                self._tables[kind].install((), [uuid])
        elif present is None or present.version < found.version:
            self._tables[kind].install([found])
        return found

    @property
    def shared(self) -> bool:
        """Whether other daemons may write to the same database."""
        return self._database.file is None

    async def events(self, *, since: int = 0, node_uuid: str | None = None, limit: int = 1000, newest: bool = False) -> list[Event]:
        """Events with a number above `since`, in order, at most `limit`: the first of them, or the last if `newest`.

        When the first one is not `since + 1` and no node was asked for, older ones have been purged.

        Raises:
            Unavailable: the database cannot be used now.
        """
        async with self._database.reading() as connection:
            return await queries.events(connection, since=since, node_uuid=node_uuid, limit=limit, newest=newest)

    async def page(self, *, since: int, node_uuid: str | None = None, limit: int, size: int) -> queries.Page:
        """Events after `since` in order, with the ends of the sequence: what a reader needs that goes on page by page.

        Args:
            since: the number of the last event that need not be read.
            node_uuid: only events of this node.
            limit: most events.
            size: most characters of their documents together; at least one event comes, however large.

        Raises:
            Unavailable: the database cannot be used now.
        """
        async with self._database.reading() as connection:
            return await queries.page(connection, since=since, node_uuid=node_uuid, limit=limit, size=size)

    async def journal(self, *, node_uuid: str | None = None, workflow_uuid: str | None = None, limit: int = 10_000) -> list[StepRecord]:
        """The last `limit` journal lines of a node or a workflow, in the order they were written.

        Raises:
            Unavailable: the database cannot be used now.
        """
        async with self._database.reading() as connection:
            return await queries.journal(connection, node_uuid=node_uuid, workflow_uuid=workflow_uuid, limit=limit)

    async def purge(self, *, before: datetime | None = None, unread_before: datetime | None = None, limit: int = 1000) -> int:
        """Delete events, journal lines and ended workflows from before a time, by default as the settings say.

        Events that a cursor has not passed yet go only when they are from before `unread_before` too.

        At most `limit` of each; call again while the number of deleted things that it returns is not 0. Events go
        from the oldest on, so that what is left has no gap.

        Raises:
            Unavailable: the database cannot be used now.
        """
        moment = before or retention.horizon(self._settings)
        return await retention.purge(self, self._writer, moment, unread_before or moment, limit)

    async def _load(self) -> None:
        was_enabled = gc.isenabled()
        gc.disable()  # nothing of what is loaded is garbage
        try:
            async with self._database.reading() as connection:
                self.last_seq = await queries.last_seq(connection)
                for kind in KINDS:
                    async for rows in queries.resources(connection, kind):
                        self._tables[kind.type].install(rows)
        finally:
            if was_enabled:
                gc.enable()

    def _install(self, written: Written) -> None:
        batch = written.batch
        self.batches += 1
        self.changes += len(batch.submissions)
        saved: dict[type[Resource], list[Resource]] = {}
        deleted: dict[type[Resource], list[str]] = {}
        for submission in batch:
            for row in submission.saves:
                if not row.expected:
                    msgspec.structs.force_setattr(row.resource, "id", written.ids[row.resource.uuid])
                saved.setdefault(row.kind.type, []).append(row.resource)
            for row in submission.deletes:
                deleted.setdefault(row.kind.type, []).append(row.resource.uuid)
                self._standings.remember(row.resource)
        for type_ in saved.keys() | deleted.keys():
            self._tables[type_].install(saved.get(type_, ()), deleted.get(type_, ()))
            self.watches.tell(row.uuid for row in saved.get(type_, ()))
            self.watches.tell(deleted.get(type_, ()))
        seq = written.last_seq - sum(len(s.events) for s in batch)
        told: list[Event] = []
        outcomes: list[Committed] = []
        for submission in batch:
            for event in submission.events:  # they are the store's own copies: see Standings
                seq += 1
                msgspec.structs.force_setattr(event, "seq", seq)
            told += submission.events
            outcomes.append(Committed([row.resource for row in submission.saves], submission.events))
        self.last_seq = max(self.last_seq, seq)
        if told:
            self._tell(told)
        for submission, outcome in zip(batch, outcomes, strict=True):
            self._outcomes.soon(partial(submission.succeed, outcome))

    def _tell(self, events: Sequence[Event]) -> None:
        for callback in tuple(self._subscribers):
            try:
                callback(events)
            except Exception:
                _log.exception("a subscriber of the store failed")
