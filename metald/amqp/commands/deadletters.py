"""Where messages go that cannot be commands: an exchange and a queue, made before anything goes there."""

from __future__ import annotations

from aio_pika.abc import AbstractChannel, AbstractExchange

from metald.amqp import topology
from metald.config import Amqp


def name(settings: Amqp) -> str:
    """What the exchange and the queue are called."""
    return f"{settings.commands.exchange}.dead"


async def declare(channel: AbstractChannel, settings: Amqp) -> AbstractExchange:
    """The dead-letter exchange, with the queue that keeps everything.

    Raises:
        AMQPError: it is missing and may not be made, or it is there with other properties.
        TimeoutError: the broker does not answer.
    """
    exchange = await topology.topic(channel, settings, name(settings))
    queue = await topology.queue(channel, settings, name(settings), arguments={"x-queue-type": "quorum"})
    await topology.bind(queue, settings, exchange, "#")
    return exchange
