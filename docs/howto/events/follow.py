"""Prints the moves of every node, from metald's events on RabbitMQ. Ends with Ctrl-C; goes on where it was.

python follow.py amqp://user:password@broker/vhost
"""

import asyncio
import json
import sys

import aio_pika

seen = 0  # keep it with your own data: an event that comes twice has the same number


async def follow(url: str) -> None:
    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
    queue = await channel.declare_queue("follow", durable=True)
    await queue.bind(exchange, "node.*.provision")
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                handle(json.loads(message.body))


def handle(event: dict) -> None:
    global seen
    number = int(event["id"])
    if number <= seen:
        return
    seen = number
    print(number, event["subject"], event["data"]["from"], "->", event["data"]["to"], flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1]))
