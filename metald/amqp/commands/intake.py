"""Intake: takes messages from one queue, makes them durable, and only then acknowledges them.

Rules: messages are taken in their order; the store commits them together, and one acknowledgement covers them all. What
cannot be read, or whose sender may not send, goes to the dead-letter exchange with the reason in headers, and is told of by
an event; it never comes back. A message that kills the daemon comes back `amqp.commands.delivery_limit` times, the last
time to be put there unread. What has come back more than once is taken one by one, over both queues, until there is no more
of it: so only the one that kills is counted further, and not what was with it on the way. No more is taken than the store
may hold, so that a million commands wait in the broker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelInvalidStateError, ChannelLockedResource

from metald.amqp import topology
from metald.amqp.commands import deadletters
from metald.amqp.commands.acks import Acks
from metald.amqp.commands.arrivals import Arrival, Arrivals
from metald.amqp.commands.aside import Aside
from metald.amqp.commands.callers import Callers
from metald.amqp.commands.claims import HEADER
from metald.amqp.commands.door import parts, request
from metald.amqp.commands.lanes import Lanes
from metald.amqp.commands.ledger import Ledger
from metald.amqp.commands.message import Incoming, Order, read, too_large
from metald.amqp.commands.post import first
from metald.amqp.commands.replies import Replies
from metald.amqp.link import Link, closed
from metald.config import Amqp
from metald.errors import Conflict, Duplicate, Full, Invalid, MetaldError, NotAllowed, Unavailable
from metald.model import now
from metald.model.caller import Caller
from metald.model.command import Address, Command, CommandState

_log = logging.getLogger(__name__)

URGENT = "urgent."
_PAUSE = 1.0
_DEFECTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a message might raise that nobody foresaw."""
_SUSPECT = 2
"""How often a message has come back when it may be what ends daemons or connections."""
_SAMPLE = 4096
"""Bytes of a body that is too large, which its dead letter keeps."""


class _Session(NamedTuple):
    """What serves the messages of one channel."""

    acks: Acks
    arrivals: Arrivals
    too_large: dict[int, int]
    """The sizes of those that are larger than a command may be, by their tags: of their bodies only the beginning is kept."""

    def come(self, message: AbstractIncomingMessage, most: int) -> None:
        """A message has come. Hundreds may be here at once, so what is too large is let go of before it waits for its turn."""
        tag, size = message.delivery_tag or 0, len(message.body)
        self.acks.begin(tag)
        if size > most:
            self.too_large[tag] = size
            message.body = message.body[:_SAMPLE]  # type: ignore[misc]  # the slot is that of a class above


class Intake:
    """One queue of commands.

    Args:
        link: the connection; nothing is published by it.
        settings: names and bounds.
        callers: who may send.
        ledger: makes commands durable.
        lanes: carries them out.
        replies: tells of commands that are known already, and of what is none.
        alone: held while a message is taken that may end the daemon; the same for all queues.
        urgent: whether this is the queue of urgent commands.
    """

    def __init__(
        self,
        link: Link,
        settings: Amqp,
        callers: Callers,
        ledger: Ledger,
        lanes: Lanes,
        replies: Replies,
        alone: asyncio.Lock,
        *,
        urgent: bool,
    ) -> None:
        self._link = link
        self._settings = settings
        self._callers = callers
        self._ledger = ledger
        self._lanes = lanes
        self._replies = replies
        self._aside = Aside(ledger, replies, URGENT)
        self._alone = alone
        self._urgent = urgent
        self._gets = True
        """Whether the queue hands over single messages: one that others made for a single active consumer does not."""
        self.ready = False
        """Whether the broker hands messages over."""
        self.taken = 0
        """Messages that were made durable, or were known."""
        self.rejected = 0
        """Messages that went to the dead-letter exchange."""

    async def use(self, connection: AbstractConnection) -> None:
        """Take messages as long as the connection holds; for `Link.attach`."""
        async with self._link.channel(connection) as channel:
            queue = await self._declare(channel)
            async with asyncio.timeout(self._link.timeout):
                raw = await channel.get_underlay_channel()
                await channel.set_qos(prefetch_count=self._settings.prefetch)
            gone = asyncio.Event()
            raw.on_consumer_cancel_callbacks.add(lambda _frame: gone.set())
            session = _Session(Acks(raw), Arrivals(self._lanes.take), {})
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(session.acks.run())
                    group.create_task(closed(raw))
                    group.create_task(_ended(gone))
                    self.ready = True
                    first_of_all = await self._take_what_came_back(session, queue, group)
                    await self._take_all(session, queue, group, first_of_all)
            except BaseExceptionGroup as raised:
                if raised.subgroup(ChannelLockedResource):
                    self._gets = False
                raise first(raised) from raised
            finally:
                self.ready = False
                session.arrivals.close()

    async def _take_what_came_back(
        self, session: _Session, queue: AbstractQueue, group: asyncio.TaskGroup
    ) -> AbstractIncomingMessage | None:
        """Take messages one by one until one comes that is no suspect; the broker hands over first what has come before.

        A daemon or a connection that ended may have had as many of them as `prefetch`. That happens; if it happens again, and one of
        them is to blame, it ends the next one alone. One that cannot be a command has shown by then that it ends nothing: the next one
        does not wait until it is put aside, which an alarm of the broker delays.

        Returns:
            The one that is no suspect, which is not taken yet; None when there is none.
        """
        enough = max(1, min(_SUSPECT, self._settings.commands.delivery_limit - 1))
        while self._gets:
            await self._lanes.room(urgent=self._urgent)
            await session.acks.fewer(self._settings.prefetch)
            async with self._alone:
                message = await queue.get(fail=False, timeout=self._link.timeout)
                if message is None:
                    return None
                session.come(message, self._settings.commands.max_size)
                if _came_back(message) < enough:
                    return message
                error = await self._judge(session, session.arrivals.begin(), message)
                if error is not None:
                    group.create_task(self._put_aside(session, message, error))
                else:
                    await session.acks.sent(message.delivery_tag or 0)
        return None

    async def _take_all(
        self, session: _Session, queue: AbstractQueue, group: asyncio.TaskGroup, first_of_all: AbstractIncomingMessage | None
    ) -> None:
        """Take messages, many at once, for ever."""
        inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        if first_of_all is not None:
            inbox.put_nowait(first_of_all)

        async def receive(message: AbstractIncomingMessage) -> None:
            session.come(message, self._settings.commands.max_size)
            inbox.put_nowait(message)

        await queue.consume(receive, timeout=self._link.timeout)
        while True:
            message = await inbox.get()
            await self._lanes.room(urgent=self._urgent)
            group.create_task(self._take(session, session.arrivals.begin(), message))
            del message

    async def _declare(self, channel: AbstractChannel) -> AbstractQueue:
        own, settings = self._settings.commands, self._settings
        await deadletters.declare(channel, settings)
        exchange = await topology.topic(channel, settings, own.exchange)
        name = f"{own.exchange}.urgent" if self._urgent else own.exchange
        arguments: dict[str, str | int] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": own.delivery_limit,
            "x-dead-letter-exchange": deadletters.name(settings),
        }
        queue = await topology.queue(channel, settings, name, arguments=arguments)
        for kind in ("node", "port"):
            await topology.bind(queue, settings, exchange, f"{URGENT}{kind}.*" if self._urgent else f"{kind}.*")
        return queue

    async def _take(self, session: _Session, arrival: Arrival, message: AbstractIncomingMessage) -> None:
        """Bring one message to its end: a durable command, or put aside."""
        error = await self._judge(session, arrival, message)
        if error is not None:
            await self._put_aside(session, message, error)

    async def _put_aside(self, session: _Session, message: AbstractIncomingMessage, error: MetaldError) -> None:
        await self._aside.put(message, _incoming(message), error)
        self.rejected += 1
        session.acks.done(message.delivery_tag or 0)

    async def _judge(self, session: _Session, arrival: Arrival, message: AbstractIncomingMessage) -> MetaldError | None:
        """Make a durable command of a message, which is acknowledged then; or say why it is to be put aside."""
        try:
            try:
                self._check_count(message)
                self._check_size(session, message)
                order, caller = await self._read(message)
                many = parts(order.verb, order.arguments)
                for part in [order.arguments] if many is None else many:
                    request(order.verb, part)
                await self._keep(arrival, message, order, caller, many)
            except MetaldError as error:
                return error
            except _DEFECTS as error:
                _log.exception("a message (%r) cannot be read: a defect", message.message_id)
                return Invalid(f"The message cannot be read: {type(error).__name__}.", field="body")
            self.taken += 1
            session.acks.done(message.delivery_tag or 0)
            return None
        finally:
            arrival.leave()  # nothing behind it waits until it is put aside, as long as the broker has an alarm

    def _check_count(self, message: AbstractIncomingMessage) -> None:
        """Leave alone what has come so often that it may be what ends daemons or connections.

        Raises:
            Invalid: it comes for the last time.
        """
        count = _came_back(message)
        if count >= self._settings.commands.delivery_limit:
            raise Invalid(
                f"The message came {count + 1} times and was never taken: metald or its connection ended each time.",
                remedy="See metald's log for why; send it again when that is mended (amqp.commands.delivery_limit).",
            )

    def _check_size(self, session: _Session, message: AbstractIncomingMessage) -> None:
        """Read nothing of what is larger than a command may be.

        Raises:
            Invalid: it is.
        """
        size = session.too_large.pop(message.delivery_tag or 0, None)
        if size is not None:
            raise too_large(size, self._settings.commands.max_size)

    async def _read(self, message: AbstractIncomingMessage) -> tuple[Order, Caller]:
        """What a message asks for, and who asks.

        Raises:
            Invalid: it cannot be read.
            NotAllowed: nobody says who sent it, or not in a way that can be believed.
        """
        claim = self._callers.claim((message.headers or {}).get(HEADER))
        # no user of the broker passes for the sender of a claim: their names have no such character
        sender = f"\1{claim.kid}\1{claim.sub}" if claim else message.user_id or ""
        order = read(_incoming(message), sender=sender, urgent_prefix=URGENT)
        request_id = f"amqp-{order.uuid}"
        if claim is None:
            return order, self._callers.of(message.user_id, request_id)
        claim.check_about(order.sender_id, order.verb, message.body)
        try:
            claim.check_time(now().timestamp())
        except NotAllowed:
            if await self._recalled(order.uuid) is None:  # what was taken in time may come again later
                raise
        return order, claim.caller(request_id)

    async def _recalled(self, uuid: str) -> Command | None:
        """The command with this UUID, however long ago it came."""
        while True:
            try:
                return await self._ledger.recall(uuid)
            except Unavailable as error:
                _log.warning("a command that came again waits: %s", error)
                await asyncio.sleep(_PAUSE)

    async def _keep(
        self, arrival: Arrival, message: AbstractIncomingMessage, order: Order, caller: Caller, many: list[dict[str, Any]] | None
    ) -> None:
        """Make a command durable and let it be carried out.

        Raises:
            Conflict: its id was another command's.
            Full: too many wait for what it would wait for.
            Invalid: a value cannot be stored.
        """
        while True:
            try:
                known = await self._ledger.known(order.uuid)
                if known is None:
                    try:
                        self._lanes.check(order, many)
                        await self._lanes.accept(arrival, order, caller, many, (message.reply_to or "", message.correlation_id))
                        return
                    except (Duplicate, Full):
                        known = await self._elsewhere(arrival, order, (message.reply_to or "", message.correlation_id))
                        if known is None:
                            raise
            except Duplicate:
                continue
            except Full:
                raise
            except Unavailable as error:
                _log.warning("commands wait: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            if known.digest != order.digest:
                raise Conflict(
                    f"The id {order.sender_id!r} was used for another command.", remedy="Give each command its own id.", field="id"
                )
            arrival.leave()  # nothing behind it waits until its sender is told
            await self._again(known, message)
            return

    async def _elsewhere(self, arrival: Arrival, order: Order, address: Address) -> Command | None:
        """A command that is not in memory, as the database has it.

        Another daemon on the same database may have made it durable: that one carries it out, and answers those who asked there. Who
        asked here, from elsewhere, is answered when that is done, and this message is not acknowledged before.
        """
        while True:
            row = await self._ledger.recall(order.uuid)
            if row is None or row.state is not CommandState.PENDING or self._ledger.find(row.uuid) is not None:
                return row
            if not address[0] or address in row.addresses or row.digest != order.digest:
                return row
            arrival.leave()  # nothing behind it waits until it is done
            await asyncio.sleep(_PAUSE)

    async def _again(self, known: Command, message: AbstractIncomingMessage) -> None:
        """The same command came again: its sender gets the same answer, and this message is not acknowledged before that is certain."""
        if not message.reply_to:
            return
        address = (message.reply_to, message.correlation_id)
        while True:
            try:
                ended = await self._ledger.also(known, address)
                break
            except Unavailable as error:
                _log.warning("a command that came again waits: %s", error)
                await asyncio.sleep(_PAUSE)
        if ended is not None:
            await self._replies.again(ended, address)


async def _ended(gone: asyncio.Event) -> None:
    """Wait until the broker has ended the consumer because its queue is gone, and fail then.

    Raises:
        ChannelInvalidStateError: always.
    """
    await gone.wait()
    raise ChannelInvalidStateError("the queue of commands is gone")


def _came_back(message: AbstractIncomingMessage) -> int:
    """How often a message was handed over before, and came back as it was not acknowledged."""
    count = (message.headers or {}).get("x-delivery-count")
    return count if isinstance(count, int) else 0


def _incoming(message: AbstractIncomingMessage) -> Incoming:
    return Incoming(
        body=message.body,
        routing_key=message.routing_key or "",
        content_type=message.content_type,
        headers=message.headers or {},
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=_seconds(message.expiration),
        timestamp=message.timestamp,
        priority=message.priority,
    )


def _seconds(expiration: Any) -> float | None:
    return float(expiration) if isinstance(expiration, int | float) else None
