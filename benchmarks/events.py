"""Events to a broker: how many a CPU-second, how soon after their transaction. Needs Debian's rabbitmq-server.

python benchmarks/events.py [--events 20000]

Bars: at least 3,000 events published and confirmed for each CPU-second of ours (encoding and reading from the store
included), and 99 of 100 events of a steady storm are with a consumer within 100 ms of their commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.broker import broker
from metald.amqp.service import Broker
from metald.config import Amqp, Settings, StoreSettings
from metald.model import Event, new_uuid
from metald.store.changes import Change
from metald.store.store import Store

PER_CPU_SECOND = 3000
P99 = 0.100
STORM = 1000
"""Events a second: those of 1,000 deployments in 20 s."""
TOGETHER = 500


@contextlib.asynccontextmanager
async def publishing(store: Store, url: str) -> AsyncIterator[Broker]:
    broker = Broker(Settings(amqp=Amqp(url=url)), store, "bench")
    await broker.prepare()
    task = asyncio.create_task(broker.run())
    try:
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def event(nodes: list[str], number: int) -> Event:
    data = {"kind": "deploy", "interface": "deploy", "step": "write_image", "outcome": "done", "attempt": 1, "seconds": 1.5, "detail": ""}
    return Event(type="node.step", node_uuid=nodes[number % len(nodes)], subject=nodes[0], data=data)


async def queue(url: str) -> None:
    """A queue that wants everything."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        await (await channel.declare_queue("bench", durable=True)).bind(exchange, "#")


async def throughput(url: str, events: int) -> float:
    """Events for each CPU-second, from a full outbox to an empty one."""
    nodes = [new_uuid() for _ in range(1000)]
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        store = await Store.open(StoreSettings(), Path(folder))
        away = Broker(Settings(amqp=Amqp(url="amqp://127.0.0.1:1/")), store, "bench")
        await away.prepare()
        for start in range(0, events, TOGETHER):
            await store.commit(Change(events=[event(nodes, start + i) for i in range(TOGETHER)]))
        async with publishing(store, url) as broker:
            assert broker.publisher is not None
            await broker.link.up.wait()
            cpu, begun = time.process_time(), time.perf_counter()
            while broker.publisher.waiting:
                await asyncio.sleep(0.01)
            cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
        await store.close()
    print(f"throughput: {events} events in {seconds:.1f} s, {cpu:.2f} CPU-s: {events / seconds:.0f}/s, {events / cpu:.0f} per CPU-second")
    return events / cpu


async def delay(url: str, seconds: float = 8.0) -> float:
    """The 99th percentile of seconds between a commit and the event's arrival, at STORM events a second."""
    nodes = [new_uuid() for _ in range(1000)]
    committed: dict[int, float] = {}
    delays: list[float] = []

    async def take(message: AbstractIncomingMessage) -> None:
        number = int(orjson.loads(message.body)["id"])
        if number in committed:
            delays.append(time.perf_counter() - committed[number])

    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        store = await Store.open(StoreSettings(), Path(folder))
        store.subscribe(lambda told: committed.update((one.seq, time.perf_counter()) for one in told))
        async with publishing(store, url) as broker, await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            inbox = await channel.get_queue("bench")
            await inbox.purge()
            await inbox.consume(take, no_ack=True)
            await broker.link.up.wait()
            begun, sent = time.perf_counter(), 0
            async with asyncio.TaskGroup() as group:
                while (now := time.perf_counter() - begun) < seconds:
                    due = int(now * STORM)
                    for number in range(sent, due):
                        group.create_task(store.commit(Change(events=[event(nodes, number)])))
                    sent = due
                    await asyncio.sleep(0.005)
            async with asyncio.timeout(60):
                while len(delays) < sent:
                    await asyncio.sleep(0.01)
        await store.close()
    delays.sort()
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"delay: {len(delays)} events at {STORM}/s: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {delays[-1] * 1000:.1f} ms")
    return p99


async def measure(url: str, events: int) -> bool:
    await queue(url)
    good = await throughput(url, events) >= PER_CPU_SECOND
    return await delay(url) <= P99 and good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    arguments = parser.parse_args()
    with broker() as rabbit:
        good = asyncio.run(measure(rabbit.url(rabbit.fresh_host()), arguments.events))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most memory: {most:.0f} MB; {'all bars held' if good else 'A BAR WAS MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
