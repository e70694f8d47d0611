"""How long after their moment the events of a daemon are with a consumer of the broker, which has a process of its own.

python -m benchmarks.parts.delays URL: prints `ready`, and once its input ends, as JSON, the number of each event with the seconds from the
event's own time (before its transaction) to its arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

Delays = dict[int, float]


async def _take(url: str) -> None:
    found: Delays = {}

    async def note(message: AbstractIncomingMessage) -> None:
        arrived = time.time()
        event = orjson.loads(message.body)
        found[int(event["id"])] = arrived - datetime.fromisoformat(event["time"]).timestamp()

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1000)
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        queue = await channel.declare_queue("delays", durable=True)
        await queue.bind(exchange, "#")
        await queue.consume(note, no_ack=True)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    json.dump(found, sys.stdout)


@contextlib.asynccontextmanager
async def delays(url: str) -> AsyncIterator[Callable[[], Awaitable[Delays]]]:
    """Follow meanwhile. What is given ends it, and returns the delays."""
    follower = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.delays", url),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert follower.stdout is not None
    await follower.stdout.readline()

    async def end() -> Delays:
        output, _ = await follower.communicate(b"\n")
        return {int(number): seconds for number, seconds in json.loads(output).items()}

    yield end


if __name__ == "__main__":
    asyncio.run(_take(sys.argv[1]))
