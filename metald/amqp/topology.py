"""Exchanges and queues on the broker: made if they are missing, or only looked for (`amqp.declare`).

Making one that is there with the same properties changes nothing, so every connection does it again.
"""

from __future__ import annotations

import asyncio

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

from metald.config import Amqp


async def topic(channel: AbstractChannel, settings: Amqp, name: str, *, durable: bool = True) -> AbstractExchange:
    """A topic exchange.

    Raises:
        AMQPError: it is missing and may not be made, or it is there with other properties.
        TimeoutError: the broker does not answer.
    """
    async with asyncio.timeout(settings.timeout):
        return await channel.declare_exchange(name, "topic", durable=durable, passive=not settings.declare)


async def queue(
    channel: AbstractChannel, settings: Amqp, name: str, *, durable: bool = True, arguments: dict[str, str | int] | None = None
) -> AbstractQueue:
    """A queue; `arguments` are the broker's own (`{"x-queue-type": "quorum"}`).

    Raises:
        AMQPError: it is missing and may not be made, or it is there with other properties.
        TimeoutError: the broker does not answer.
    """
    async with asyncio.timeout(settings.timeout):
        return await channel.declare_queue(name, durable=durable, passive=not settings.declare, arguments=dict(arguments or {}))


async def bind(bound: AbstractQueue, settings: Amqp, exchange: AbstractExchange, key: str) -> None:
    """Have a queue get what is published with a matching routing key; nothing when others set the broker up.

    Raises:
        AMQPError: the broker refuses.
        TimeoutError: the broker does not answer.
    """
    if settings.declare:
        async with asyncio.timeout(settings.timeout):
            await bound.bind(exchange, key)
