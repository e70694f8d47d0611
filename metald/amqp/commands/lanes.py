"""Lanes: carries commands out, those about one node one after the other, nodes beside each other.

Rules: what a command needs is asked of the API's door, and what it did is written with its effect. A command that comes
while its node is busy waits until the node is free, until it expires, or until nobody would want it any more
(`amqp.commands.patience`); other nodes do not notice. `node.abort` is about what runs now and overtakes those that wait.
Slots are for work in here: who may have to wait for hardware, or for a node that something drives, has none meanwhile, and takes
no room (`lane`). More than `amqp.commands.pending_per_node` do not wait for one node that does not move.
A command that is not due yet waits in a heap, by the wall clock, which may jump. What is durable is carried out by this
daemon, whatever becomes of the connection that it came by meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson

from metald.amqp.commands.arrivals import Arrival
from metald.amqp.commands.door import ASKS_HARDWARE, OVERTAKING, Api, request
from metald.amqp.commands.lane import Lane, Standing
from metald.amqp.commands.ledger import Ledger, accepted, rejection
from metald.amqp.commands.message import Order
from metald.amqp.commands.replies import Replies
from metald.amqp.commands.slots import Slots
from metald.amqp.commands.subject import names, node_of
from metald.config import Commands as Settings
from metald.errors import Busy, Expired, Full, MetaldError, NotAllowed, StaleVersion, Unavailable, WrongState
from metald.model import Event, Node, now
from metald.model.caller import Caller
from metald.model.command import Address, Command
from metald.statemachine.table import FAILED, STABLE
from metald.store.ride import riding
from metald.store.store import Store
from metald.turns import Turns

_log = logging.getLogger(__name__)

_AT_ONCE = 64
_URGENT_SHARE = 10
"""What part of the room for commands is kept for urgent ones beside it: one in so many."""
_PAUSE = 1.0
_LOOK = 30.0
_GLANCE = 5.0
"""Seconds after which a waiting command looks at its node again, for not every change has an event."""
_TRIES = 5
_RESTING = frozenset((*STABLE, *FAILED))
_WANTS_FREE = frozenset({"node.create", "node.update", "node.maintenance", *OVERTAKING})
"""Verbs that do not wait for a free node before they are tried."""
_NEVER_WAITS = frozenset({"node.create", "node.maintenance"})
_EACH_ROUND = 8
"""How many commands begin in one round of the loop without a slot."""


class _Later(Exception):
    """The command cannot be carried out while the node is as it is."""

    def __init__(self, error: MetaldError, node: Node | None) -> None:
        self.error = error
        self.node = node


class Lanes:
    """Every lane.

    Args:
        store: the state.
        api: the door.
        ledger: where outcomes go.
        settings: how long commands wait.
        replies: tells the senders.
    """

    def __init__(self, store: Store, api: Api, ledger: Ledger, settings: Settings, replies: Replies) -> None:
        self._store = store
        self._api = api
        self._ledger = ledger
        self._settings = settings
        self._told = replies.told
        self._slots = Slots(_AT_ONCE)
        self._turns = Turns(_EACH_ROUND)
        self._lanes: dict[str, Lane] = {}
        self._sleepers: dict[str, set[Lane]] = {}
        self._heap: list[tuple[datetime, int, Command]] = []
        self._due = asyncio.Event()
        self._room = ledger.eased
        self._standing = Standing(self._room.set)
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()

    async def run(self) -> None:
        """Carry out what is durable already, and then whatever is added, for ever."""
        leave = self._store.subscribe(self._look)
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    self._group = group
                    self._running.set()
                    for whole in await self._ledger.resume():
                        self._told(whole)
                    for command in self._ledger.open():
                        self.add(command)
                    await self._keep_time()
                finally:
                    self._group = None
                    self._running.clear()
        finally:
            leave()

    @property
    def delayed(self) -> int:
        """How many commands wait for their time."""
        return len(self._heap)

    async def room(self, *, urgent: bool) -> None:
        """Wait until there are few enough commands that can be carried out now, and few enough answers that have not left; for urgent
        ones there is a little more room.
        """
        most = self._settings.pending + urgent * (self._settings.pending // _URGENT_SHARE + 1)
        while self._ledger.pending - self.delayed - self._standing.count + self._ledger.unsent >= most:
            self._room.clear()
            await self._room.wait()

    def check(self, order: Order, many: list[dict[str, Any]] | None) -> None:
        """See whether a command can wait for what it would have to wait for.

        Raises:
            Full: too many do already.
        """
        most = self._settings.pending
        if order.not_before is not None and order.not_before > now():
            if self.delayed >= most:
                raise Full(
                    f"{self.delayed} commands wait for their time.",
                    remedy="Send it when it is due, or raise amqp.commands.pending.",
                    field="notbefore",
                )
        elif order.verb not in OVERTAKING:
            parts = [order.arguments] if many is None else many
            stand = [lane for part in parts if (lane := self._lane(names(self._store, order.verb, part) or [order.uuid])) and lane.stands]
            if stand and self._standing.count >= most:
                raise Full(
                    f"{self._standing.count} commands wait for nodes that are busy.",
                    remedy="Send it when the node is free, or raise amqp.commands.pending.",
                )
            if many is None and stand:
                self._check_lane(stand[0])

    def _check_lane(self, lane: Lane) -> None:
        if lane.stands and lane.count >= self._settings.pending_per_node:
            raise Full(
                f"{lane.count} commands wait for this node, which is busy or does not answer.",
                remedy="Send it when they are done, or raise amqp.commands.pending_per_node.",
                field="node",
            )

    async def accept(self, arrival: Arrival, order: Order, caller: Caller, many: list[dict[str, Any]] | None, address: Address) -> None:
        """Make a command durable, and carry it out when its turn comes, also when the caller is cancelled meanwhile.

        Args:
            arrival: the message's place in the order in which messages came.
            order: what is asked for.
            caller: who asks.
            many: the arguments of each, if it is a command of many.
            address: where the reply goes; empty for nowhere.

        Raises:
            Duplicate: it is known already.
            Invalid: a value cannot be stored.
            Unavailable: the store cannot be used now.
        """
        while self._group is None:
            await self._running.wait()
        arrival.begin_writing()
        error = await asyncio.shield(self._group.create_task(self._accept(arrival, order, caller, many, address)))
        if error is not None:
            raise error

    async def _accept(
        self, arrival: Arrival, order: Order, caller: Caller, many: list[dict[str, Any]] | None, address: Address
    ) -> MetaldError | None:
        try:
            arrival.settle(await self._ledger.accept(order, caller, many, address))
        except MetaldError as error:
            return error
        finally:
            arrival.end_writing()
        return None

    def take(self, command: Command) -> None:
        """Carry out what has just become durable when its turn comes; one of many whose node has too many is refused by itself."""
        lane = self._lane(names(self._store, command.verb, command.arguments) or [command.uuid])
        if lane is not None and command.parent is not None and self._group is not None:
            try:
                self._check_lane(lane)
            except Full as error:
                self._group.create_task(self._end(command, self._refuse(command, error)), name=f"refusal of {command.uuid}")
                return
        self.add(command)

    def add(self, command: Command) -> None:
        """Carry out a durable command when its turn comes."""
        if self._group is None:
            return  # `run` takes it from the ledger
        if command.not_before is not None and command.not_before > now():
            heapq.heappush(self._heap, (command.not_before, command.id, command))
            self._due.set()
            self._room.set()
            return
        keys = names(self._store, command.verb, command.arguments) or [command.uuid]
        lane = self._lane(keys)
        new = lane is None
        if lane is None:
            lane = Lane()
        for key in keys:
            if key not in self._lanes:
                self._lanes[key] = lane
                lane.keys.add(key)
        self._standing.come(lane)
        if command.verb in OVERTAKING and not new:
            lane.overtaking.append(command)
            lane.wake.set()
        else:
            lane.waiting.append(command)
        if new:
            self._group.create_task(self._drive(lane), name=f"commands of {keys[0]}")

    def _lane(self, keys: Sequence[str]) -> Lane | None:
        return next((self._lanes[key] for key in keys if key in self._lanes), None)

    async def _keep_time(self) -> None:
        while True:
            while self._heap and self._heap[0][0] <= now():
                self.add(heapq.heappop(self._heap)[2])
            self._due.clear()
            pause = min(_LOOK, (self._heap[0][0] - now()).total_seconds()) if self._heap else None
            try:
                async with asyncio.timeout(None if pause is None else max(pause, 0.0)):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _drive(self, lane: Lane) -> None:
        while lane.overtaking or lane.waiting:
            command = (lane.overtaking or lane.waiting).popleft()
            await self._carry_out(lane, command)
        for key in lane.keys:
            del self._lanes[key]

    async def _carry_out(self, lane: Lane, command: Command) -> None:
        await self._end(command, self._outcome(lane, command))
        self._standing.done(lane)

    async def _end(self, command: Command, coming: Awaitable[Command | None]) -> None:
        """Tell of the outcome of a command, and of that of the whole of which it was the last part.

        Args:
            command: the command.
            coming: its row when it has ended; None when another daemon has ended it, which tells of it.
        """
        done = await coming
        if done is not None:
            self._told(done)
        whole = await self._patiently(lambda: self._ledger.part_done(command))
        if whole is not None:
            self._told(whole)
        self._room.set()

    async def _outcome(self, lane: Lane, command: Command) -> Command | None:
        """Have the effect, however long that takes; the row with the outcome, or None when another daemon wrote that."""
        tries = 0
        patience = max(command.received_at, command.not_before or command.received_at) + timedelta(seconds=self._settings.patience)
        until = min(patience, command.expires_at or patience)
        while True:
            try:
                if command.expires_at is not None and command.expires_at <= now():
                    raise Expired("The command expired before it could be carried out.", field="expirytime")
                async with self._slots.one(urgent=command.urgent):
                    if not self._may_wait(command):
                        return await self._attempt(command)
                with self._standing.inside(lane):
                    await self._turns.take()
                    return await self._attempt(command)
            except _Later as later:
                if not await self._changed(lane, later.node, until) and until == patience:
                    return await self._refuse(command, later.error)
            except Unavailable as error:
                _log.warning("command %s waits: %s", command.uuid, error)
                await asyncio.sleep(_PAUSE)
            except StaleVersion as error:
                if await self._patiently(partial(self._ledger.ended_elsewhere, command)):
                    return None
                tries += 1
                if tries >= _TRIES:
                    return await self._refuse(command, error)
            except MetaldError as error:
                return await self._refuse(command, error)
            except Exception:
                _log.exception("command %s (%s) failed", command.uuid, command.verb)
                return await self._refuse(command, MetaldError("Internal error; the log tells more.", remedy=f"Look for {command.uuid}."))

    def _may_wait(self, command: Command) -> bool:
        """Whether it may have to wait for what is out there, and so holds up nobody who does not."""
        if command.verb in ASKS_HARDWARE:
            return True
        node = node_of(self._store, command.verb, command.arguments)
        return node is not None and node.reservation is not None and command.verb not in _NEVER_WAITS

    async def _attempt(self, command: Command) -> Command:
        node = node_of(self._store, command.verb, command.arguments)
        if node is not None and node.reservation is not None and command.verb not in _WANTS_FREE and command.verb.startswith("node."):
            raise _Later(Busy(f"Node {node.uuid} is locked by host {node.reservation}.", remedy="Send it when the node is free."), node)
        asked = request(command.verb, command.arguments)
        try:
            with riding(lambda change: self._ledger.done(command, accepted(change))) as ride:
                await self._api.perform(asked.method, asked.path, asked.body, command.caller)
        except (Busy, WrongState) as error:
            under_way = node is not None and node.provision_state not in _RESTING
            if command.verb not in OVERTAKING and (isinstance(error, Busy) or under_way):
                raise _Later(error, node) from error
            raise
        if isinstance(ride.done, Command):
            return ride.done
        return await self._ledger.close(command, {"status": "accepted", **({"node": node.uuid} if node else {})})

    async def _refuse(self, command: Command, error: MetaldError) -> Command | None:
        told = [rejection(command.verb, str(error), command.caller.user, command.sender_id)] if error.code == NotAllowed.code else []
        outcome = {"status": "refused", "code": error.status, "error": orjson.loads(self._api.problem(error))}
        while True:
            present = self._ledger.find(command.uuid) or command
            if present.outcome:
                return present  # its effect was durable before something went wrong
            try:
                closed: Command = await self._patiently(partial(self._ledger.close, present, outcome, told))
                return closed
            except StaleVersion:
                if await self._patiently(partial(self._ledger.ended_elsewhere, command)):
                    return None

    async def _patiently(self, work: Callable[[], Any]) -> Any:
        """Do it as soon as the store can be used."""
        while True:
            try:
                return await work()
            except Unavailable as error:
                _log.warning("an outcome waits: %s", error)
                await asyncio.sleep(_PAUSE)

    async def _changed(self, lane: Lane, seen: Node | None, until: datetime) -> bool:
        """Wait until the node is another than `seen`, and carry out meanwhile what overtakes. False when it is too late."""
        with self._standing.inside(lane):
            return await self._has_changed(lane, seen, until)

    async def _has_changed(self, lane: Lane, seen: Node | None, until: datetime) -> bool:
        if seen is None:
            await asyncio.sleep(_PAUSE)
            return True
        sleepers = self._sleepers.setdefault(seen.uuid, set())
        sleepers.add(lane)
        try:
            while True:
                lane.wake.clear()
                while lane.overtaking:
                    await self._carry_out(lane, lane.overtaking.popleft())
                here = self._store.table(Node).get(seen.uuid)
                if here is None or (here.reservation is None and here.version != seen.version):
                    return True
                left = (until - now()).total_seconds()
                if left <= 0:
                    return False
                try:
                    async with asyncio.timeout(min(left, _GLANCE)):
                        await lane.wake.wait()
                except TimeoutError:
                    continue
        finally:
            sleepers.discard(lane)
            if not sleepers:
                self._sleepers.pop(seen.uuid, None)

    def _look(self, events: Sequence[Event]) -> None:
        for event in events:
            for lane in self._sleepers.get(event.node_uuid or "", ()):
                lane.wake.set()
