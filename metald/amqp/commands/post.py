"""Post: letters on their way to the broker by one channel, many at once, each kept until it is over.

Rules: a letter is over when the broker has confirmed it, or when it is the letter's own fault that it cannot be sent; whatever else
goes wrong (the channel, the connection, an alarm) it stays, and goes again. A broker that closes the channel does not say which
letter it did not like: then those that were on their way go one by one by the next channel, and the one that closes it alone is it.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.channel import Channel
from aiormq.exceptions import ChannelClosed, ChannelInvalidStateError, ChannelPreconditionFailed, DeliveryError
from pamqp.commands import Basic

from metald.amqp.link import Link, closed
from metald.model.command import Address

UNSENDABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
"""What encoding a message raises that AMQP has no form for, before anything of it is sent."""
_AT_ONCE = 100
_MOST_WAITING = 10_000


@dataclass(slots=True, eq=False)
class Debt:
    """What one command still owes: `settle` is called when the last of its letters is over."""

    settle: Callable[[], Awaitable[None]]
    owed: set[Address | None]
    """To whom replies have not left for certain; None stands for its dead letter."""


@dataclass(slots=True, eq=False)
class Letter:
    """A message on its way."""

    message: Message
    key: str
    debt: Debt | None = None
    """Of what it is a part, if that is written down until it is over."""
    owed_to: Address | None = None
    """Which part."""
    waiter: asyncio.Future[None] | None = None
    """Who waits until it is over."""
    sent: bool = False
    """Whether the broker may have it, and has not said what becomes of it."""

    @property
    def is_wanted(self) -> bool:
        """Whether it still needs to leave: not if who waited has gone, with the connection of the message that it was about."""
        return self.waiter is None or not self.waiter.done()

    def release(self, error: BaseException | None = None) -> None:
        """Let go of who waits; the letter itself may still be on its way."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    async def over(self) -> None:
        """Nothing more becomes of it."""
        self.release()
        debt, self.debt = self.debt, None
        if debt is not None:
            debt.owed.discard(self.owed_to)
            if not debt.owed:
                await debt.settle()


class Post(ABC):
    """Letters to one exchange. Subclasses say which, and what becomes of a letter that the broker does not take.

    Args:
        link: the connection.
        refill: is called when there is room again for letters that others keep (`lacking`).
    """

    def __init__(self, link: Link, refill: Callable[[], None]) -> None:
        self._link = link
        self._refill = refill
        self._waiting: deque[Letter] = deque()
        self._some = asyncio.Event()
        self._on_their_way: dict[Letter, None] = {}
        self._suspects: deque[Letter] = deque()
        self._raw: Channel | None = None
        self.lacking = False
        """Whether others keep letters that found no room here."""
        self.confirmed = 0
        """Letters that the broker has confirmed."""

    @abstractmethod
    async def prepare(self, channel: AbstractChannel) -> str:
        """Make ready the exchange that letters go to; its name.

        Raises:
            AMQPError, TimeoutError: the broker refuses.
        """

    @abstractmethod
    async def carry(self, exchange: str, letter: Letter) -> None:
        """Bring a letter to its end. What is raised ends the channel; a letter that is not over by then goes again."""

    @abstractmethod
    async def blame(self, letter: Letter, error: Exception) -> None:
        """End a letter that cannot be sent, by its own fault."""

    @abstractmethod
    def resume(self, exchange: str, group: asyncio.TaskGroup) -> None:
        """There is a channel: whatever the subclass has to do beside goes on."""

    async def explain(self, reason: ChannelClosed, sent: list[Letter]) -> bool:
        """Find out why the broker closed the channel.

        Args:
            reason: what it says.
            sent: the letters of which it has not said anything.

        Returns:
            Whether it is worth while to go on at once, by another channel.
        """
        if not (sent and isinstance(reason, ChannelPreconditionFailed)):
            return False
        if len(sent) > 1:
            self._suspects.extend(sent)
            return True
        self.taken(sent[0])
        await self.blame(sent[0], reason)
        return True

    @property
    def is_full(self) -> bool:
        """Whether as many letters wait as may."""
        return len(self._waiting) >= _MOST_WAITING

    def put(self, letter: Letter) -> None:
        """Send a letter as soon as possible."""
        self._waiting.append(letter)
        self._some.set()

    def begin(self, letter: Letter) -> None:
        """From here on it goes again if nobody brings it to its end."""
        self._on_their_way[letter] = None

    def taken(self, letter: Letter) -> None:
        """It is known what becomes of it."""
        letter.sent = False
        self._on_their_way.pop(letter, None)

    async def publish(self, exchange: str, letter: Letter, *, mandatory: bool) -> bool:
        """Hand a letter to the broker. After an error that is the letter's own, or its queue's, somebody else has to keep it.

        Returns:
            Whether some queue has it; always true when that is not asked for.

        Raises:
            DeliveryError: a queue does not take it.
            TimeoutError: it is not confirmed in time.
            UNSENDABLE: it cannot be written.
            AMQPError, OSError, ChannelInvalidStateError: the channel or the connection is gone.
        """
        await self._link.unblocked()
        channel, message = self._raw, letter.message
        if channel is None or _is_closing(channel):
            raise ChannelInvalidStateError("the channel was closed")
        letter.sent = True
        try:
            # nothing is waited for between the look at the channel and the write
            confirmation = await channel.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=letter.key,
                properties=message.properties,
                mandatory=mandatory,
                timeout=self._link.timeout,
                wait=False,
            )
        except (DeliveryError, TimeoutError):
            self.taken(letter)
            raise
        except UNSENDABLE as error:
            letter.sent = False
            if _is_closing(channel):
                raise ChannelInvalidStateError("the channel was closed") from error
            self.taken(letter)
            raise
        self.taken(letter)
        self.confirmed += 1
        return isinstance(confirmation, Basic.Ack)

    async def use(self, connection: AbstractConnection) -> None:
        """Send letters as long as the connection holds; for `Link.attach`."""
        while True:
            async with self._link.channel(connection) as channel:
                async with asyncio.timeout(self._link.timeout):
                    raw = await channel.get_underlay_channel()
                assert isinstance(raw, Channel)
                self._raw = raw
                try:
                    await self._serve(channel, raw)
                except Exception as error:
                    reason = error if isinstance(error, ChannelClosed) else _reason(raw)
                    sent = [letter for letter in self._on_their_way if letter.sent]
                    if reason is None or not await self.explain(reason, sent):
                        raise
                finally:
                    self._take_back()

    def _take_back(self) -> None:
        """What is not over goes again, before all others."""
        suspects = set(self._suspects)
        self._waiting.extendleft(letter for letter in reversed(self._on_their_way) if letter not in suspects)
        for letter in self._on_their_way:
            letter.sent = False
        self._on_their_way.clear()

    async def _serve(self, channel: AbstractChannel, raw: Channel) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(closed(raw))
                exchange = await self.prepare(channel)
                while self._suspects:
                    letter = self._suspects.popleft()
                    self.begin(letter)
                    await self.carry(exchange, letter)
                self.resume(exchange, group)
                while True:
                    await slots.acquire()
                    letter = await self._next()
                    self.begin(letter)
                    task = group.create_task(self.carry(exchange, letter))
                    task.add_done_callback(lambda _task: slots.release())
        except BaseExceptionGroup as raised:
            raise first(raised) from raised

    async def _next(self) -> Letter:
        while True:
            while not self._waiting:
                if self.lacking:
                    self.lacking = False
                    self._refill()
                    continue
                self._some.clear()
                await self._some.wait()
            letter = self._waiting.popleft()
            if letter.is_wanted:
                return letter


def _is_closing(raw: Channel) -> bool:
    """Whether the broker has closed the channel: what is written by it now ends the connection. aiormq looks for that somewhat later."""
    return raw.is_closed or raw._close_exception is not None


def _reason(raw: Channel) -> ChannelClosed | None:
    """Why the broker has closed the channel; None if it has not."""
    if not raw.is_closed or raw.closing.cancelled():
        return None
    error = raw.closing.exception()
    return error if isinstance(error, ChannelClosed) else None


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is one."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
