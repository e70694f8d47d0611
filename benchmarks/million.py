"""A million commands wait in the broker: what a daemon takes of them, and what it can do beside. Needs Debian's rabbitmq-server.

    python benchmarks/million.py [--commands 1000000] [--seconds 60]

The commands (`node.maintenance` on 200 nodes of fake-hardware, each with an id of its own) are published while metald is away. Then it is
started, killed half-way, and started again. Once a second an urgent command is sent, and the time to its answer is taken.

Bars: the daemon grows by no more than 200 MiB; 99 of 100 urgent commands are answered within a second; no command is done twice, and none
is put aside. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import orjson
from aiormq.channel import Channel
from pamqp.commands import Basic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.commands import EXCHANGE, NODES, ready
from benchmarks.parts import process
from benchmarks.parts.bars import Bar, say, verdict
from benchmarks.parts.broker import broker
from metald.amqp.pipeline import Message, Pipeline
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

GROWTH = 200.0
ANSWER = 1.0
_IN_FLIGHT = 4000
_AT_ONCE = 500


async def fill(url: str, number: int) -> None:
    """Publish all commands, confirmed.

    Raises:
        AssertionError: a command found no queue.
        AMQPError: the broker refused one, or closed the channel.
    """
    back: list[None] = []
    connection = await aio_pika.connect(url)
    async with connection:
        bare = await (await connection.channel(on_return_raises=False)).get_underlay_channel()
        assert isinstance(bare, Channel)
        progress = asyncio.Event()
        pipeline = Pipeline(bare, lambda _count: progress.set(), lambda: back.append(None))

        async def at_most(on_their_way: int) -> None:
            await pipeline.flush()
            while len(pipeline) > on_their_way:
                progress.clear()
                confirmed = asyncio.ensure_future(progress.wait())
                await asyncio.wait((confirmed, pipeline.refused, bare.closing), return_when=asyncio.FIRST_COMPLETED)
                if not confirmed.done():
                    confirmed.cancel()
                    await (pipeline.refused if pipeline.refused.done() else bare.closing)

        for i in range(number):
            body = orjson.dumps({"node": f"n{i % NODES}", "reason": f"round {i}"})
            properties = Basic.Properties(content_type="application/json", delivery_mode=2, message_id=f"m{i}")
            pipeline.publish(i, Message(EXCHANGE, "node.maintenance", body, properties.marshal()))
            if i % _AT_ONCE == 0:
                await at_most(_IN_FLIGHT)
        await at_most(0)
        pipeline.close()
    assert not back, f"{len(back)} commands found no queue"


async def urgent(url: str, took: list[float]) -> None:
    """Once a second, send an urgent command and note how long its answer takes; for ever."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        async with replies.iterator(no_ack=True) as answers:
            while True:
                body = orjson.dumps({"driver": "fake-hardware"})
                message = aio_pika.Message(body, content_type="application/json", message_id=f"u{len(took)}", reply_to=replies.name)
                began = time.perf_counter()
                await exchange.publish(message, "urgent.node.create")
                await anext(answers)
                took.append(time.perf_counter() - began)
                await asyncio.sleep(1)


async def waiting(url: str) -> tuple[int, int]:
    """How many messages wait in the queue of commands, and how many were put aside."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queues = [await channel.declare_queue(name, passive=True) for name in (EXCHANGE, f"{EXCHANGE}.dead")]
        first, second = (queue.declaration_result.message_count or 0 for queue in queues)
        return first, second


async def half(daemon: Daemon, url: str, seconds: float, took: list[float]) -> float:
    """Run the daemon for a while; by how many MiB it grew at most."""
    await daemon.start()
    await ready(url)
    before, most, asking = process.rss_mib(daemon.pid), 0.0, asyncio.create_task(urgent(url, took))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        most = max(most, process.rss_mib(daemon.pid))
        await asyncio.sleep(0.25)
    await daemon.kill()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return most - before


async def twice(daemon: Daemon) -> int:
    """How many of the commands had their effect more than once, by their events."""
    seen: Counter[str] = Counter()
    since = 0
    async with api(daemon) as client:
        while (page := await client.ask("GET", f"/v1/events?since={since}&type=node.maintenance"))["next"] > since:
            seen.update(event["data"]["reason"] for event in page["events"])
            since = page["next"]
    print(f"{len(seen):,} different effects told of", flush=True)
    return sum(count > 1 for count in seen.values())


async def measure(rabbit: PrivateRabbit, folder: Path, arguments: argparse.Namespace) -> list[Bar]:
    """Do it all."""
    url, took = rabbit.url(), list[float]()
    settings: dict[str, Any] = {"amqp.url": url, "amqp.publish": "false", "log.level": "warning"}
    async with Daemon(folder, settings) as daemon:
        await daemon.start()
        await ready(url)
        async with api(daemon) as client:
            for i in range(NODES):
                await client.ask("POST", "/v1/nodes", {"name": f"n{i}", "driver": "fake-hardware"})
        await daemon.kill()
        print(f"publishing {arguments.commands:,} commands ...", flush=True)
        began = time.perf_counter()
        await fill(url, arguments.commands)
        print(f"published in {time.perf_counter() - began:.0f} s", flush=True)
        grew = [await half(daemon, url, arguments.seconds / 2, took) for _ in range(2)]
        left, aside = await waiting(url)
        await daemon.start()
        doubles = await twice(daemon)
        taken = arguments.commands - left
        print(f"{taken:,} taken in {arguments.seconds:.0f} s ({taken / arguments.seconds:,.0f}/s); {left:,} wait", flush=True)
    took.sort()
    return [
        Bar("growth of the daemon", max(grew), GROWTH, "MiB"),
        Bar("answer to an urgent command at p99", took[int(len(took) * 0.99)], ANSWER, "s"),
        Bar("commands put aside", aside, 0),
        Bar("commands done twice", doubles, 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=1_000_000, help="how many wait")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the daemon may take them")
    arguments = parser.parse_args()
    with broker() as rabbit, tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        bars = asyncio.run(measure(rabbit, Path(folder), arguments))
    say(bars)
    return verdict(bars)


if __name__ == "__main__":
    sys.exit(main())
