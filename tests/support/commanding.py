"""A metald that takes commands from a real broker, and a producer beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import AMQPError

from metald.amqp.commands.assembly import Commands
from metald.amqp.link import Link
from metald.config import Amqp, StoreSettings
from metald.http.dispatcher import DISPATCHER
from metald.model.command import Command
from tests.support.api import Api, api_settings, serving

PATIENCE = 120.0
"""Seconds that what must happen may take: much more than it does, for machines that do other things too."""


class Place(NamedTuple):
    """Where commands of one test go: the broker, and an exchange of the test's own."""

    url: str
    exchange: str


async def following(queue: AbstractQueue) -> AbstractIncomingMessage:
    """The next message of a queue, which is taken."""
    async with asyncio.timeout(PATIENCE):
        while (found := await queue.get(no_ack=True, fail=False)) is None:
            await asyncio.sleep(0.02)
    return found


class Producer:
    """Sends commands as any program would, and reads the replies.

    Args:
        channel: with confirms.
        replies: its own queue.
        exchange: where commands go.
    """

    def __init__(self, channel: AbstractChannel, replies: AbstractQueue, exchange: str) -> None:
        self.channel = channel
        self.exchange = exchange
        self.queue = replies
        self.inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def send(self, verb: str, id_: str, data: Any = None, *, key: str | None = None, reply: bool = True, **more: Any) -> None:
        """Publish a plain JSON command."""
        body = data if isinstance(data, bytes) else json.dumps(data or {}).encode()
        fields: dict[str, Any] = {
            "content_type": "application/json", "message_id": id_, "delivery_mode": 2, "correlation_id": f"c-{id_}", **more
        }  # fmt: skip
        if reply:
            fields["reply_to"] = self.queue.name
        exchange = await self.channel.get_exchange(self.exchange, ensure=False)
        await exchange.publish(aio_pika.Message(body, **fields), key or verb)

    async def reply(self) -> dict[str, Any]:
        """The next reply."""
        async with asyncio.timeout(PATIENCE):
            message = await self.inbox.get()
        found: dict[str, Any] = json.loads(message.body)
        found["_correlation"] = message.correlation_id
        found["_headers"] = message.headers
        return found

    async def ask(self, verb: str, id_: str, data: Any = None, **more: Any) -> dict[str, Any]:
        """Send, and wait for the reply."""
        await self.send(verb, id_, data, **more)
        return await self.reply()

    async def replies(self, count: int) -> dict[str, dict[str, Any]]:
        """The next replies, by the id of their command."""
        found = [await self.reply() for _ in range(count)]
        return {reply["command"]: reply for reply in found}

    async def dead(self) -> AbstractIncomingMessage:
        """The next dead letter."""
        return await following(await self.channel.get_queue(f"{self.exchange}.dead", ensure=False))

    async def waiting(self, queue: str = "") -> int:
        """How many messages wait in a queue of the broker."""
        declared = await self.channel.declare_queue(f"{self.exchange}{queue}", passive=True)
        return declared.declaration_result.message_count or 0


@contextlib.asynccontextmanager
async def producing(place: Place) -> AsyncIterator[Producer]:
    """A producer with a connection of its own."""
    connection = await aio_pika.connect(place.url)
    async with connection:
        # what no queue wants was not delivered: a broker that comes back takes messages before anybody has made the queue again
        channel = await connection.channel(on_return_raises=True)
        queue = await channel.declare_queue(exclusive=True)
        producer = Producer(channel, queue, place.exchange)
        await queue.consume(producer.inbox.put, no_ack=True)
        yield producer


async def queue_made(place: Place) -> None:
    """Wait until a daemon has made its queue."""
    connection = await aio_pika.connect(place.url)
    async with asyncio.timeout(PATIENCE), connection:
        while True:
            channel = await connection.channel()
            with contextlib.suppress(AMQPError):
                await channel.get_queue(place.exchange)
                return
            await asyncio.sleep(0.05)


class Site:
    """A metald with commands.

    Args:
        api: its API.
        commands: what is tested.
        link: the connection that it takes commands by.
        out: the connection that it answers by.
        tasks: what must not end.
    """

    def __init__(self, api: Api, commands: Commands, out: Link, tasks: list[asyncio.Task[None]]) -> None:
        self.tasks = tasks
        self.api = api
        self.commands = commands
        self.link = commands.link
        self.out = out

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                for task in self.tasks:
                    assert not task.done(), task.result()
                await asyncio.sleep(0.01)

    def command(self, sender_id: str) -> Command:
        """What is known of a command."""
        return next(row for row in self.api.house.store.table(Command) if row.sender_id == sender_id and row.parent is None)


@contextlib.asynccontextmanager
async def commanded(
    tmp_path: Path, place: Place, *, amqp: dict[str, Any] | None = None, database: str = "", **commands: Any
) -> AsyncIterator[Site]:
    """Serve the API and take commands, over a state directory that may have a past; at the end stop as the daemon does.

    Args:
        tmp_path: the state directory.
        place: where commands come from.
        amqp: settings of the broker.
        database: a PostgreSQL instead of a file.
        commands: settings of commands.
    """
    base = Amqp()
    broker = msgspec.structs.replace(
        base,
        url=place.url,
        retry_delay=0.05,
        commands=msgspec.structs.replace(base.commands, exchange=place.exchange, **commands),
        **(amqp or {}),
    )
    settings = msgspec.structs.replace(api_settings(), amqp=broker, store=StoreSettings(url=database))
    async with serving(tmp_path, settings) as api:
        out, link = Link(broker, "metald test", "answers"), Link(broker, "metald test commands", "commands")
        application = api.client.app
        assert application is not None
        owner = Commands(settings, api.house.store, out, link, application[DISPATCHER])
        tasks = [asyncio.create_task(out.run()), asyncio.create_task(owner.run())]
        site = Site(api, owner, out, tasks)
        try:
            await site.until(lambda: owner.intakes[0].ready and owner.intakes[1].ready)
            yield site
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
