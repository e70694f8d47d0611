"""StateWriter: the one task that writes.

Rules: while one batch is being committed the next one gathers, without any timer. `commit()` returns when its change is
durable, shown by the tables in memory, and told to the subscribers, in the order of sequence numbers. A change that
conflicts fails alone. Nobody waits for ever: a database that is gone, a lock that is held by others or a writer that
died become `Unavailable`, and when the database is back the writer goes on. A caller that is cancelled leaves only
after its change is settled, so that a lock it holds covers the change to its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from metald.errors import Unavailable
from metald.metrics import Histogram
from metald.model import Resource
from metald.store.batch import Batch, Submission, gather, submit
from metald.store.changes import Change, Committed
from metald.store.database import Database, cause_of
from metald.store.dialects import Trouble
from metald.store.kinds import Kind
from metald.store.statements import Statements
from metald.store.transaction import Rejected, Steps, Written, batch_steps, transaction

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING = 4000
"""Most changes that wait for the writer; further callers wait for a place."""
FIRST_DELAY = 0.05
LONGEST_DELAY = 1.0


class StateWriter:
    """Takes changes from any number of callers and commits them in batches.

    Args:
        database: where to; the writer alone uses its writing connection.
        current: looks a row up in memory.
        install: called with each committed transaction, before its callers return.
    """

    def __init__(
        self, database: Database, current: Callable[[Kind[Resource], str], Resource | None], install: Callable[[Written], None]
    ) -> None:
        self._database = database
        self._statements = Statements(database.dialect)
        self._current_row = current
        self._install = install
        self._waiting: deque[Submission] = deque()
        self._works: deque[tuple[Steps[Any], asyncio.Future[Any]]] = deque()
        self._slots = asyncio.Semaphore(MAX_WAITING)
        self._wake = asyncio.Event()
        self._current: Batch = Batch([])
        self._doubtful: Written | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.seconds = Histogram()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="store-writer")
        self._task.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        """Whether changes are taken."""
        return self._task is not None and not self._task.done() and not self._closing

    async def commit(self, change: Change) -> Committed:
        """See `Store.commit`."""
        submission = submit(change, self._current_row)
        if not (submission.saves or submission.deletes or submission.journal or submission.events):
            return Committed([], [])
        async with self._slots:
            self._check()
            self._waiting.append(submission)
            self._wake.set()
            return await submission.outcome()

    async def perform(self, work: Steps[T]) -> T:
        """Run other statements in a transaction of their own, between two batches.

        Raises:
            Unavailable: the database cannot be used now; nothing was done, unless the connection broke at the very end.
        """
        self._check()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._works.append((work, future))
        self._wake.set()
        return await future

    async def close(self) -> None:
        """Finish what was accepted, take nothing more."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _check(self) -> None:
        if self._closing:
            raise Unavailable("metald is stopping.", remedy="Repeat the request when it runs again.")
        if self._task is None or self._task.done():
            raise Unavailable("The store's writer has stopped.", remedy="Restart metald, and report the error in its log.")

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.critical("the store's writer has stopped", exc_info=error)
        gone = Unavailable("The store's writer has stopped.", remedy="Restart metald, and report the error in its log.")
        for submission in (*self._current, *self._waiting):
            submission.fail(gone)
        for _, future in self._works:
            _fail(future, gone)
        self._waiting.clear()
        self._works.clear()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            # those who were told of the last batch get the chance to be in this one
            await asyncio.sleep(0)
            self._current = gather(self._waiting)
            if self._current:
                await self._write(self._current)
                self._current = Batch([])
            elif self._works:
                await self._work()
            elif self._closing:
                return
            else:
                self._wake.clear()

    async def _write(self, batch: Batch) -> None:
        retry = _Retry(self._database.timeout)
        while batch:
            try:
                if await self._settle() is batch:
                    return
                self._finish(await self._transact(batch))
                return
            except Rejected as rejected:
                if not rejected.explained:
                    await self._isolate(batch, rejected)
                    return
                batch = self._reject(batch, rejected)
            except _DEFECTS:
                raise
            except Exception as raised:
                error = cause_of(raised)
                await self._discard()
                trouble = self._database.dialect.trouble(error)
                if (trouble is Trouble.LOST or self._doubtful is not None) and await retry.again():
                    continue
                if trouble is Trouble.UNKNOWN:
                    await self._isolate(batch, error)
                    return
                self._give_up(batch, error)
                return

    async def _transact(self, batch: Batch) -> Written:
        def doubt(written: Written) -> None:
            self._doubtful = written

        async with asyncio.timeout(self._database.deadline):
            session = await self._database.session()
            steps = batch_steps(self._database.dialect, self._statements, batch)
            begun = time.perf_counter()
            written = await session.run(transaction(self._statements, steps, doubt))
            self.seconds.add(time.perf_counter() - begun)
            return written

    async def _settle(self) -> Batch | None:
        """Find out what became of a transaction whose COMMIT was not answered; install it if it was made."""
        written = self._doubtful
        if written is None:
            return None
        if await self._database.committed(written.receipt):
            self._finish(written)
            return written.batch
        self._doubtful = None
        return None

    def _finish(self, written: Written) -> None:
        try:
            self._install(written)
        except Exception as error:
            raise _InstallFailed from error
        self._doubtful = None

    def _reject(self, batch: Batch, rejected: Rejected) -> Batch:
        for submission in batch:
            if id(submission) in rejected.failed:
                submission.fail(rejected.failed[id(submission)])
        self._waiting.extendleft(s for s in reversed(batch.submissions) if id(s) in rejected.deferred)
        return batch.without(rejected.failed.keys() | rejected.deferred)

    async def _isolate(self, batch: Batch, error: BaseException) -> None:
        """Something in the batch is wrong and nobody knows what: each change for itself."""
        if len(batch.submissions) == 1:
            _log.error("the database refused a change", exc_info=error)
            batch.submissions[0].fail(Unavailable("The database refused the change.", remedy="The error is in metald's log."))
            return
        for submission in batch:
            await self._write(Batch([submission]))

    def _give_up(self, batch: Batch, error: BaseException) -> None:
        _log.error("the database cannot be used: %s", error)
        unavailable = self._database.dialect.explain(error)
        if self._doubtful is not None:
            unavailable = Unavailable(
                f"{unavailable.message} It failed while the change was being committed.",
                remedy=f"{unavailable.remedy} But see first whether the change was made.",
            )
        for submission in batch:
            submission.fail(unavailable)

    async def _work(self) -> None:
        work, future = self._works[0]
        try:
            async with asyncio.timeout(self._database.deadline):
                await self._settle()
                session = await self._database.session()
                result = await session.run(transaction(self._statements, work))
        except _DEFECTS:
            raise
        except Exception as error:
            await self._discard()
            _fail(future, self._database.dialect.explain(cause_of(error)))
        else:
            if not future.done():
                future.set_result(result)
        self._works.popleft()

    async def _discard(self) -> None:
        try:
            async with asyncio.timeout(self._database.deadline):
                await self._database.discard()
        except Exception as error:
            _log.warning("closing a broken database connection failed: %s", error)


class _InstallFailed(Exception):
    """Memory no longer shows what the database holds: the writer must not go on."""


_DEFECTS = (_InstallFailed,)


class _Retry:
    """Waits that double, until their sum is over."""

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._delay = FIRST_DELAY

    async def again(self) -> bool:
        """Wait; false when the time is over."""
        if asyncio.get_running_loop().time() + self._delay > self._end:
            return False
        await asyncio.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return True


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
