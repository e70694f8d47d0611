"""The ledger: which commands there are, what became of each, and for how long that is remembered.

Rules: a command is one row from before it is acknowledged until its answer is forgotten. Its outcome is written in the
transaction that has its effect (`metald.store.ride`), so there is never one without the other. What is done keeps no
arguments. A command that is settled is known for as long as the settings say, whatever comes meanwhile: only the last ones are in
memory, the others in the database, which finds them when it refuses to write the same one again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from metald.amqp.commands.losses import Losses
from metald.amqp.commands.message import Order
from metald.config import Commands as Settings
from metald.errors import Duplicate, NotAllowed, StaleVersion, Unavailable
from metald.model import Event, Node, Port, Workflow, now
from metald.model.caller import Caller
from metald.model.command import Address, Command, CommandState
from metald.store.changes import Change
from metald.store.locks import KeyedLocks
from metald.store.store import Store

_log = logging.getLogger(__name__)

_TOGETHER = 500
_MOST_ALSO = 16
"""Most further addresses that one command answers to when it is done."""


def accepted(change: Change) -> dict[str, Any]:
    """The outcome of a command whose effect is `change`."""
    found: dict[str, Any] = {"status": "accepted"}
    for row in (*change.save, *change.delete):
        if isinstance(row, Workflow) and not row.state.ended:
            found["workflow"] = row.uuid
        elif isinstance(row, Node):
            found["node"] = row.uuid
        elif isinstance(row, Port):
            found["port"], found["node"] = row.uuid, row.node_uuid
    return found


def rejection(verb: str, reason: str, user: str | None, sender_id: str | None) -> Event:
    """What tells of a message that was put aside."""
    return Event(type="command.rejected", severity="ERROR", user=user, data={"verb": verb[:255], "reason": reason, "id": sender_id})


def denied(command: Command) -> bool:
    """Whether a command that is done was refused because its sender may not do that, whatever the state of the node."""
    error = command.outcome.get("error")
    return error is not None and bool(error["metald"]["code"] == NotAllowed.code)


class Ledger:
    """The commands of one daemon.

    Args:
        store: the state.
        settings: for how long answers are kept.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._table = store.table(Command)
        self.losses = Losses()
        """Answers and dead letters that reach nobody."""
        self.eased = asyncio.Event()
        """Is set when there may be room for more: an answer has left, or whoever carries commands out has done one."""
        self._coming: dict[str, asyncio.Event] = {}
        self._kept: deque[str] = deque()
        """Settled commands that are in memory, from the oldest on."""
        self._asked = KeyedLocks()
        self._noting: dict[str, Command] = {}
        """Rows that are just being written, as they will be."""
        self._open: Counter[str] = Counter(row.parent for row in self._table.where("state", CommandState.PENDING) if row.parent)

    async def known(self, uuid_: str) -> Command | None:
        """The command with this UUID; one that is just being made durable is waited for."""
        while (coming := self._coming.get(uuid_)) is not None:
            await coming.wait()
        return self._table.get(uuid_)

    async def recall(self, uuid_: str) -> Command | None:
        """The command with this UUID, although it may have left memory long ago.

        Raises:
            Unavailable: the store cannot be used now.
        """
        return await self.known(uuid_) or await self._store.fetch(Command, uuid_)

    def find(self, uuid_: str) -> Command | None:
        """The command with this UUID."""
        return self._table.get(uuid_)

    async def ended_elsewhere(self, command: Command) -> bool:
        """Whether another daemon on the same database has ended a command that was known as pending here.

        Raises:
            Unavailable: the store cannot be used now.
        """
        if not self._store.shared:
            return False
        known = self._table.get(command.uuid)
        if known is not None and known.state is not CommandState.PENDING:
            return False
        row = await self._store.refresh(Command, command.uuid)
        return row is None or row.state is not CommandState.PENDING

    @property
    def pending(self) -> int:
        """How many commands have had no effect yet."""
        return self._table.count("state", CommandState.PENDING)

    @property
    def unsent(self) -> int:
        """How many commands have an answer that has not left for certain."""
        return self._table.count("state", CommandState.ANSWERED)

    def open(self) -> list[Command]:
        """The commands that are to be carried out, in the order in which they came."""
        return [row for row in self._table.where("state", CommandState.PENDING) if not row.parts]

    def answered(self) -> list[Command]:
        """The commands whose reply has not left for certain."""
        return self._table.where("state", CommandState.ANSWERED)

    async def accept(self, order: Order, caller: Caller, many: list[dict[str, Any]] | None, address: Address) -> list[Command]:
        """Make a command durable. Returns what is to be carried out: the command, or those that it is made of.

        Raises:
            Duplicate: it is known already.
            Invalid: a value cannot be stored.
            Unavailable: the store cannot be used now.
        """
        whole = Command(
            uuid=order.uuid,
            verb=order.verb,
            arguments=order.arguments if many is None else {},
            sender_id=order.sender_id,
            digest=order.digest,
            caller=caller,
            not_before=order.not_before,
            expires_at=order.expires_at,
            received_at=now(),
            urgent=order.urgent,
            reply_to=address[0] or None,
            correlation_id=address[1],
            parts=0 if many is None else len(many),
        )
        if whole.uuid in self._coming:
            raise Duplicate(f"The command {order.sender_id!r} is just being made durable.", field="id")
        settled = self._coming[whole.uuid] = asyncio.Event()
        try:
            return await self._write(whole, many)
        finally:
            del self._coming[whole.uuid]
            settled.set()

    async def _write(self, whole: Command, many: list[dict[str, Any]] | None) -> list[Command]:
        if many is None:
            saved = (await self._store.commit(Change(save=[whole]))).saved
            return [saved[0]]  # type: ignore[list-item]
        space = uuid.UUID(whole.uuid)
        children = [
            msgspec.structs.replace(
                whole, uuid=str(uuid.uuid5(space, str(i))), arguments=part, parent=whole.uuid, place=i, parts=0, reply_to=None
            )
            for i, part in enumerate(many)
        ]
        committed = await self._store.commit(Change(save=[whole, *children]))
        self._open[whole.uuid] = len(children)
        return committed.saved[1:]  # type: ignore[return-value]

    async def also(self, command: Command, address: Address) -> Command | None:
        """Have the answer go to this address too. What is returned is durable.

        Returns:
            The command if it has ended, so that nothing is written down; None otherwise.

        Raises:
            Unavailable: the store cannot be used now.
        """
        async with self._asked.holding(command.uuid):
            while True:
                row = self._table.get(command.uuid) or command
                if row.state is not CommandState.PENDING:
                    return row
                if address in row.addresses:
                    return None
                if len(row.also) >= _MOST_ALSO:
                    text = f"command {row.sender_id!r} came from more than {_MOST_ALSO} places: {address[0]!r} will not be told of it"
                    self.losses.add("addresses", text)
                    return None
                try:
                    await self._note(row.changed(also=(*row.also, address)))
                    return None
                except StaleVersion:
                    await self._look_again([row])

    async def _note(self, row: Command) -> None:
        """Write a command that goes on meanwhile. What it ends with is written over this row: see `done`."""
        self._noting[row.uuid] = msgspec.structs.replace(row, version=row.version + 1)
        try:
            await self._store.commit(Change(save=[row]))
        finally:
            del self._noting[row.uuid]

    def done(self, command: Command, outcome: dict[str, Any]) -> Command:
        """The row of a command that has had its effect, or will have none."""
        present = self._noting.get(command.uuid) or self._table.get(command.uuid)
        # who asked may have been noted meanwhile; what has ended stays as it is, and nothing can be written over it
        row: Command = present if present is not None and present.state is CommandState.PENDING else command
        row = row.changed(outcome=outcome, ended_at=now())
        put_aside = denied(row)  # its dead letter tells what was asked
        state = CommandState.ANSWERED if row.addresses or (put_aside and row.parent is None) else CommandState.SETTLED
        settled: Command = row.changed(state=state, arguments=row.arguments if put_aside else {})
        return settled

    async def close(self, command: Command, outcome: dict[str, Any], events: Sequence[Event] = ()) -> Command:
        """Write the outcome of a command that had no effect to go with, and what is told of that.

        Raises:
            StaleVersion: it has ended already.
            Unavailable: the store cannot be used now.
        """
        return await self._end(command, outcome, events=events)

    async def _end(
        self, command: Command, outcome: dict[str, Any], *, events: Sequence[Event] = (), parts: Sequence[Command] = ()
    ) -> Command:
        """Write an outcome over the row as it is by then; its parts go with it."""
        while True:
            row = self.done(command, outcome)
            try:
                committed = await self._store.commit(Change(save=[row], delete=list(parts), events=list(events)))
                return committed.saved[0]  # type: ignore[return-value]
            except StaleVersion:
                if not self._has_moved(row):
                    raise

    def _has_moved(self, row: Command) -> bool:
        """Whether a row that could not be written has not ended, but is another by now."""
        present = self._table.get(row.uuid)
        return present is not None and present.state is CommandState.PENDING and present.version != row.version

    async def part_done(self, part: Command) -> Command | None:
        """Note that a part is done; with the last one, the whole, which it returns."""
        if part.parent is None:
            return None
        self._open[part.parent] -= 1
        if self._open[part.parent] > 0:
            return None
        del self._open[part.parent]
        return await self._whole_done(part.parent)

    async def _whole_done(self, uuid_: str) -> Command | None:
        whole = self._table.get(uuid_)
        if whole is None or whole.state is not CommandState.PENDING:
            return None
        parts = sorted(self._table.where("parent", uuid_), key=lambda part: part.place)
        outcomes = [part.outcome for part in parts]
        good = sum(outcome["status"] == "accepted" for outcome in outcomes)
        outcome = {
            "status": "accepted" if good == len(parts) else "refused" if not good else "partly accepted",
            "accepted": good,
            "refused": len(parts) - good,
            "parts": outcomes,
        }
        try:
            return await self._end(whole, outcome, parts=parts)
        except StaleVersion:
            await self._look_again([whole, *parts])
            return None  # another daemon has done it

    async def resume(self) -> list[Command]:
        """End the commands of many of which all parts were done when the daemon died. Returns them."""
        wholes = [row for row in self._table.where("state", CommandState.PENDING) if row.parts and not self._open[row.uuid]]
        ended = [await self._whole_done(row.uuid) for row in wholes]
        return [row for row in ended if row is not None]

    async def settle(self, uuid_: str) -> None:
        """Note that the reply of a command has left. If that cannot be written down now, the reply is sent again some time."""
        row = self._table.get(uuid_)
        if row is None or row.state is not CommandState.ANSWERED:
            return
        try:
            committed = await self._store.commit(Change(save=[row.changed(state=CommandState.SETTLED, arguments={})]))
            self.keep(committed.saved[0].uuid)
        except StaleVersion:
            await self._look_again([row])  # the same reply left twice, also by another daemon
        except Unavailable as error:
            _log.warning("a reply will be sent again: %s", error)
        finally:
            self.eased.set()

    async def reject(self, verb: str, reason: str, user: str | None, sender_id: str | None) -> None:
        """Tell of a message that was no command, or whose sender may not send."""
        await self._store.commit(Change(events=[rejection(verb, reason, user, sender_id)]))

    def keep(self, uuid_: str) -> None:
        """A command is settled: keep it in memory as long as it is among the last that are."""
        self._kept.append(uuid_)
        while len(self._kept) > self._settings.answers:
            self._store.release(Command, self._kept.popleft())

    async def forget(self) -> int:
        """Let go of a few old answers. Returns of how many."""
        horizon = now() - timedelta(hours=self._settings.answers_hours)
        old = [row for row in await self._store.finished(Command, _TOGETHER) if (row.ended_at or row.received_at) < horizon]
        if not old:
            return 0
        try:
            await self._store.commit(Change(delete=list(old)))
        except StaleVersion:
            return 0  # another daemon has done it
        return len(old)

    async def _look_again(self, rows: Sequence[Command]) -> None:
        """Have memory show what another daemon on the same database has made of rows."""
        for row in rows if self._store.shared else ():
            await self._store.refresh(Command, row.uuid)
