"""Place: how far the events have been published, durable, and which daemon publishes them.

Rules: only the owner of the cursor moves it, and every write checks the row's version, so a daemon that was held to be
dead and comes back writes nothing. A cursor that does not move for the lease, by the observer's own steady clock, is taken
over: clocks that jump, or differ between hosts, decide nothing. The database of a single daemon needs no lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from metald.errors import Duplicate, MetaldError, StaleVersion
from metald.model.cursor import Cursor
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds without a move after which another daemon takes the cursor."""


class Lost(Exception):
    """Another daemon has the cursor now."""


class Place:
    """One cursor.

    Args:
        store: where it is kept.
        name: which.
        owner: this conductor's name.
        lease: see LEASE.
    """

    def __init__(self, store: Store, name: str, owner: str, lease: float = LEASE) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self._lease = lease
        self._row: Cursor | None = None
        self._moved = 0.0

    @property
    def seq(self) -> int:
        """The number of the last event that is done with, as far as it is durable."""
        assert self._row is not None
        return self._row.seq

    @property
    def held(self) -> bool:
        """Whether the cursor is ours."""
        return self._row is not None

    async def prepare(self) -> int:
        """Make the cursor if there is none, at the newest event: nobody asked for what happened before.

        Returns:
            Where it is.

        Raises:
            Unavailable: the database cannot be used now.
        """
        uuid = Cursor.uuid_of(self._name)
        found = await self._store.fetch(Cursor, uuid)
        if found is None:
            found = Cursor(uuid=uuid, name=self._name, seq=self._store.last_seq)
            with contextlib.suppress(Duplicate):
                await self._store.commit(Change(save=[found]))
        return found.seq

    async def acquire(self) -> None:
        """Return once the cursor is ours."""
        if self._row is not None:
            return
        observed: Cursor | None = None
        while True:
            pause = self._lease
            try:
                row = await self._store.fetch(Cursor, Cursor.uuid_of(self._name))
                if row is None:
                    await self.prepare()
                    continue
                still = observed is not None and observed.version == row.version
                first = observed is None and row.owner == self._owner
                if row.owner is None or first or still or not self._store.shared:
                    await self._write(row.changed(owner=self._owner))
                    return
                if observed is None:
                    _log.info("events are published by %s; ready to take over", row.owner)
                observed = row
            except Lost:
                observed = None
            except MetaldError as error:
                _log.warning("the place in the events cannot be read: %s", error)
                pause = 1.0
            await asyncio.sleep(pause)

    async def move(self, seq: int) -> None:
        """Make durable that everything up to `seq` is done with. Cheap when nothing is new.

        Raises:
            Lost: another daemon has the cursor, or may have it.
            Unavailable: the database cannot be used now.
        """
        assert self._row is not None
        overdue = asyncio.get_running_loop().time() - self._moved
        if overdue > self._lease and self._store.shared:
            self._row = None
            raise Lost
        if seq > self._row.seq or (self._store.shared and overdue > self._lease / 4):
            await self._write(self._row.changed(seq=max(seq, self._row.seq)))

    async def release(self) -> None:
        """Let another daemon have it at once. Errors are of no consequence: the lease ends by itself."""
        if self._row is not None and self._store.shared:
            try:
                await self._write(self._row.changed(owner=None))
            except (Lost, MetaldError) as error:
                _log.debug("the place in the events was not released: %r", error)
        self._row = None

    async def _write(self, row: Cursor) -> None:
        began = asyncio.get_running_loop().time()
        try:
            committed = await self._store.commit(Change(save=[row]))
        except StaleVersion:
            self._row = None
            raise Lost from None
        self._row = committed.saved[0]  # type: ignore[assignment]
        self._moved = began
