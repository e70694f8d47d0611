"""Replies: tells the sender of a command what became of it, and the dead-letter exchange of what could not be one.

Rules: a reply leaves after its outcome is durable, and is sent again by the next connection until the broker has
confirmed it; replies that find no room here wait in the ledger. It goes to `reply_to` by the default exchange (which
includes RabbitMQ's direct reply-to); a queue that is gone gets nothing and disturbs nobody. Its form is a CloudEvent in
binary mode: the body is plain JSON.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractConnection, AbstractExchange
from aiormq.exceptions import AMQPConnectionError, ChannelInvalidStateError

from metald.amqp.commands import deadletters
from metald.amqp.commands.door import Api
from metald.amqp.commands.ledger import Ledger, denied
from metald.amqp.link import Link
from metald.config import Amqp
from metald.errors import MetaldError
from metald.model import now
from metald.model.command import Command, CommandState

_PASSING = (asyncio.CancelledError, AMQPConnectionError, ChannelInvalidStateError, OSError, TimeoutError)
"""What a letter is not to blame for."""
_AT_ONCE = 100
_MOST_WAITING = 10_000

Address = tuple[str, str | None]
"""Where a reply goes: `reply_to`, and the correlation id."""


def envelope(command: Command, outcome: Mapping[str, Any], correlation_id: str | None, source: str) -> Message:
    """The message that tells of an outcome."""
    body = {"command": command.sender_id, "verb": command.verb, **outcome}
    headers = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": f"{command.uuid}.reply",
        "cloudEvents:source": source,
        "cloudEvents:type": f"metald.reply.{str(outcome['status']).replace(' ', '-')}",
        "cloudEvents:subject": command.sender_id,
        "cloudEvents:time": (command.ended_at or now()).isoformat(),
    }
    return Message(
        orjson.dumps(body),
        content_type="application/json",
        message_id=f"{command.uuid}.reply",
        correlation_id=correlation_id or command.sender_id,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=headers,  # type: ignore[arg-type]  # texts are fields
    )


class _Letter(NamedTuple):
    """A message on its way."""

    message: Message
    key: str
    dead: bool = False
    command: Command | None = None
    """The command whose answer it is, if that is not known to have left."""
    confirmed: asyncio.Future[None] | None = None
    """Who waits until it has left, or cannot."""

    @property
    def is_wanted(self) -> bool:
        """Whether it still needs to leave: not if who waited has gone, with the connection of the message that it was about."""
        return self.confirmed is None or not self.confirmed.done()


class Replies:
    """Replies on their way.

    Args:
        link: the connection.
        ledger: knows the outcomes.
        api: words refusals.
        source: what names this installation in CloudEvents.
        settings: names.
    """

    def __init__(self, link: Link, ledger: Ledger, api: Api, source: str, settings: Amqp) -> None:
        self._link = link
        self._ledger = ledger
        self._api = api
        self._source = source
        self._settings = settings
        self._waiting: deque[_Letter] = deque()
        self._some = asyncio.Event()
        self._under_way: set[str] = set()
        """Commands whose answers wait here, or are with the broker."""
        self._left_out = False
        """Whether the ledger has answers that found no room."""
        self._also: dict[str, list[Address]] = {}
        self.sent = 0
        """Answers that the broker has confirmed."""

    def told(self, command: Command) -> None:
        """A command is done: reply to everybody who asked."""
        addresses = self._also.pop(command.uuid, [])
        if command.state is CommandState.ANSWERED:
            self._owe(command)
        elif denied(command):
            self._put(_Letter(_put_aside(command), command.verb, dead=True))
        for address in addresses:
            self.send(command, address)

    def also(self, command: Command, address: Address) -> None:
        """Reply to this address as well, when the command is done."""
        addresses = self._also.setdefault(command.uuid, [])
        if (command.reply_to, command.correlation_id) != address and address not in addresses:
            addresses.append(address)

    def send(self, command: Command, address: Address) -> None:
        """Reply now. What finds no room is lost, and sent when it is asked for again."""
        to, correlation_id = address
        self._put(_Letter(envelope(command, command.outcome, correlation_id, self._source), to))

    async def deliver(self, message: Message, key: str, *, dead: bool = False) -> None:
        """Send a message, or a dead letter, and wait until the broker has confirmed it, however long that takes.

        Raises:
            AMQPError: the broker does not take it.
            ValueError: it cannot be sent.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Letter(message, key, dead, confirmed=confirmed))
        await confirmed

    def refusal(self, sender_id: str, verb: str, error: MetaldError, correlation_id: str | None) -> Message:
        """What is replied to a message that is no command, as well as can be."""
        body = {
            "command": sender_id,
            "verb": verb,
            "status": "refused",
            "code": error.status,
            "error": orjson.loads(self._api.problem(error)),
        }
        return Message(
            orjson.dumps(body),
            content_type="application/json",
            correlation_id=correlation_id or sender_id,
            delivery_mode=DeliveryMode.PERSISTENT,
        )

    def _owe(self, command: Command) -> None:
        """Send what a command's answer is made of: a reply if one was asked for, a dead letter if its sender may not do that."""
        if command.uuid in self._under_way:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._left_out = True
            return
        self._under_way.add(command.uuid)
        reply = None
        if command.reply_to:
            reply = _Letter(envelope(command, command.outcome, command.correlation_id, self._source), command.reply_to, command=command)
        if denied(command):
            self._put(_Letter(_put_aside(command), command.verb, dead=True, command=None if reply else command))
        if reply:
            self._put(reply)

    def _put(self, letter: _Letter) -> None:
        if letter.command is not None or letter.confirmed is not None or len(self._waiting) < _MOST_WAITING:
            self._waiting.append(letter)
            self._some.set()

    async def _next(self) -> _Letter:
        while not self._waiting:
            if self._left_out:
                self._remember()
                continue
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()

    def _remember(self) -> None:
        """Take what the ledger has to send."""
        self._left_out = False
        for command in self._ledger.answered():
            self._owe(command)

    async def use(self, connection: AbstractConnection) -> None:
        """Send replies as long as the connection holds; for `Link.attach`."""
        async with self._link.channel(connection) as channel:
            dead = await deadletters.declare(channel, self._settings)
            self._remember()
            slots = asyncio.Semaphore(_AT_ONCE)
            try:
                async with asyncio.TaskGroup() as group:
                    while True:
                        await slots.acquire()
                        letter = await self._next()
                        if not letter.is_wanted:
                            slots.release()
                            continue
                        task = group.create_task(self._deliver(dead if letter.dead else channel.default_exchange, letter))
                        task.add_done_callback(lambda _task: slots.release())
            except BaseExceptionGroup as raised:
                raise first(raised) from raised

    async def _deliver(self, exchange: AbstractExchange, letter: _Letter) -> None:
        try:
            await self._link.unblocked()
            await exchange.publish(letter.message, letter.key, mandatory=False, timeout=self._link.timeout)
        except BaseException as error:
            if letter.confirmed is None or isinstance(error, _PASSING):
                self._waiting.appendleft(letter)
            elif letter.is_wanted:
                letter.confirmed.set_exception(error)  # its message comes back, and is counted each time
            raise
        self.sent += not letter.dead
        if letter.confirmed is not None and letter.is_wanted:
            letter.confirmed.set_result(None)
        if letter.command is not None:
            try:
                await self._ledger.settle(letter.command.uuid)
            finally:
                self._under_way.discard(letter.command.uuid)


def _put_aside(command: Command) -> Message:
    """The dead letter of a command whose sender may send, but not this."""
    error = command.outcome["error"]
    headers = {
        "metald-code": error["metald"]["code"],
        "metald-reason": orjson.loads(error["error_message"])["faultstring"],
        "cloudEvents:id": command.sender_id,
    }
    return Message(
        orjson.dumps(command.arguments),
        content_type="application/json",
        message_id=command.sender_id,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=headers,
    )


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is one."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
