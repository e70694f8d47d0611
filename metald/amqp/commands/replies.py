"""Replies: tells the sender of a command what became of it, and the dead-letter exchange of what could not be one.

Rules: a reply leaves after its outcome is durable, and is sent again by the next connection until the broker has
confirmed it. It goes to `reply_to` by the default exchange (which includes RabbitMQ's direct reply-to); a queue that is
gone gets nothing and disturbs nobody. Its form is a CloudEvent in binary mode: the body is plain JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractConnection, AbstractExchange

from metald.amqp.commands.door import Api
from metald.amqp.commands.ledger import Ledger
from metald.amqp.link import Link
from metald.errors import MetaldError
from metald.model import now
from metald.model.command import Command, CommandState

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
    """The command whose reply it is, if that is not known to have left."""


class Replies:
    """Replies on their way.

    Args:
        link: the connection.
        ledger: knows the outcomes.
        api: words refusals.
        source: what names this installation in CloudEvents.
        dead: name of the dead-letter exchange.
    """

    def __init__(self, link: Link, ledger: Ledger, api: Api, source: str, dead: str) -> None:
        self._link = link
        self._ledger = ledger
        self._api = api
        self._source = source
        self._dead = dead
        self._queue: asyncio.Queue[_Letter] = asyncio.Queue(_MOST_WAITING)
        self._also: dict[str, list[Address]] = {}
        self.sent = 0
        """Letters that the broker has confirmed."""

    def told(self, command: Command) -> None:
        """A command is done: reply to everybody who asked."""
        addresses = self._also.pop(command.uuid, [])
        if command.reply_to:
            addresses.insert(0, (command.reply_to, command.correlation_id))
        for address in addresses:
            self.send(command, address)

    def also(self, command: Command, address: Address) -> None:
        """Reply to this address as well, when the command is done."""
        addresses = self._also.setdefault(command.uuid, [])
        if (command.reply_to, command.correlation_id) != address and address not in addresses:
            addresses.append(address)

    def send(self, command: Command, address: Address) -> None:
        """Reply now. What finds no room is sent from the ledger by the next connection, or when it is asked for again."""
        to, correlation_id = address
        owed = command if command.state is CommandState.ANSWERED and to == command.reply_to else None
        self._put(_Letter(envelope(command, command.outcome, correlation_id, self._source), to, command=owed))

    def refuse(self, sender_id: str, verb: str, error: MetaldError, address: Address) -> None:
        """Reply to a message that is no command, as well as can be."""
        body = {
            "command": sender_id,
            "verb": verb,
            "status": "refused",
            "code": error.status,
            "error": orjson.loads(self._api.problem(error)),
        }
        message = Message(orjson.dumps(body), content_type="application/json", correlation_id=address[1] or sender_id)
        self._put(_Letter(message, address[0]))

    def denied(self, command: Command, error: MetaldError) -> None:
        """Put a command aside whose sender may send, but not this."""
        headers = {"metald-code": error.code, "metald-reason": str(error), "cloudEvents:id": command.sender_id}
        message = Message(
            orjson.dumps(command.arguments),
            content_type="application/json",
            message_id=command.sender_id,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=headers,  # type: ignore[arg-type]  # texts are fields
        )
        self._put(_Letter(message, command.verb, dead=True))

    def _put(self, letter: _Letter) -> None:
        if not self._queue.full():
            self._queue.put_nowait(letter)

    async def use(self, connection: AbstractConnection) -> None:
        """Send replies as long as the connection holds; for `Link.attach`."""
        channel = await self._link.channel(connection)
        dead = await channel.get_exchange(self._dead, ensure=False)
        queued = {letter.command.uuid for letter in self._queue._queue if letter.command is not None}  # type: ignore[attr-defined]
        for command in self._ledger.answered():
            if command.uuid not in queued:
                self.send(command, (command.reply_to or "", command.correlation_id))
        slots = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await slots.acquire()
                    letter = await self._queue.get()
                    task = group.create_task(self._deliver(dead if letter.dead else channel.default_exchange, letter))
                    task.add_done_callback(lambda _task: slots.release())
        except BaseExceptionGroup as raised:
            raise first(raised) from raised

    async def _deliver(self, exchange: AbstractExchange, letter: _Letter) -> None:
        await self._link.unblocked()
        await exchange.publish(letter.message, letter.key, mandatory=False, timeout=self._link.timeout)
        self.sent += 1
        if letter.command is not None:
            await self._ledger.settle(letter.command.uuid)


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is one."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
