"""What commands and watchers cost: commands a second, durable and acknowledged; a change told to 1,000 watchers at once.

    python benchmarks/commands.py [--commands 20000] [--watchers 1000] [--rounds 20]

A private RabbitMQ (Debian's) is started. The commands (`node.maintenance` on 200 nodes of fake-hardware, each with an id of
its own) wait in the quorum queue before the daemon, a process of its own, is let at them: what is measured is taking a
message, making it durable, acknowledging it, carrying it out and writing its outcome down. The CPU is that of the daemon
alone. Then as many watchers as asked for follow one node's events, and the node is changed again and again; the time is from
the request of the change to the last watcher's line. Exits with 1 when a command costs more than 1.5 ms of CPU, when a
waiting flood makes the daemon grow by more than 200 MiB, or when a change takes more than 250 ms to reach
the watchers at p99. Times depend on what else runs on the machine, so the load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts import process
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

CPU_BAR = 1.5
GROWTH_BAR = 200.0
WATCH_BAR = 0.25
NODES = 200
EXCHANGE = "metald.commands"


async def flood(url: str, number: int) -> None:
    """Publish all commands, confirmed."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        slots = asyncio.Semaphore(256)

        async def send(i: int) -> None:
            body = json.dumps({"node": f"n{i % NODES}", "reason": f"round {i}"}).encode()
            async with slots:
                await exchange.publish(
                    aio_pika.Message(body, content_type="application/json", message_id=f"b{i}", delivery_mode=2), "node.maintenance"
                )

        for start in range(0, number, 2000):
            await asyncio.gather(*(send(i) for i in range(start, min(start + 2000, number))))


async def ready(url: str) -> None:
    """Wait until the daemon has made its queue."""
    connection = await aio_pika.connect(url)
    async with connection:
        while True:
            channel = await connection.channel()
            try:
                await channel.get_queue(EXCHANGE)
                return
            except aio_pika.exceptions.AMQPError:
                await asyncio.sleep(0.05)


async def commands(daemon: Daemon, url: str, number: int) -> bool:
    """Commands a second, CPU for each, and what the flood does to memory."""
    await daemon.start()
    await ready(url)
    async with api(daemon) as client:
        for i in range(NODES):
            await client.ask("POST", "/v1/nodes", {"name": f"n{i}", "driver": "fake-hardware"})
    await daemon.kill()
    print(f"publishing {number} commands ...", flush=True)
    await flood(url, number)
    await daemon.start()
    began, cpu, memory, most = time.perf_counter(), process.cpu_ms(daemon.pid), process.rss_mib(daemon.pid), 0.0
    async with api(daemon) as client:
        seen = first = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
        while (now := (await client.ask("GET", f"/v1/events?limit=1&since={seen}"))["last_seq"]) - first < number * 0.98 or now != seen:
            seen = now
            most = max(most, process.rss_mib(daemon.pid))
            await asyncio.sleep(0.25)
            if time.perf_counter() - began > 600:
                print("commands: not done after 600 s")
                return False
    seconds = time.perf_counter() - began
    each = (process.cpu_ms(daemon.pid) - cpu) / number
    good = each <= CPU_BAR and most - memory <= GROWTH_BAR
    print(
        f"commands: {number / seconds:,.0f}/s durable, acknowledged and done; {each:.2f} ms CPU each (bar {CPU_BAR}); "
        f"memory {memory:.0f} -> at most {most:.0f} MiB (bar +{GROWTH_BAR:.0f}){'' if good else '  MISSED'}"
    )
    return good


async def follow(session: aiohttp.ClientSession, url: str, told: asyncio.Queue[float], opened: asyncio.Semaphore) -> None:
    """One watcher: notes when each event's line came."""
    async with session.get(f"{url}/v1/events/stream?node=n0") as answer:
        opened.release()
        async for line in answer.content:
            if line.startswith(b"data:"):
                told.put_nowait(time.perf_counter())


async def watchers(daemon: Daemon, number: int, rounds: int) -> bool:
    """How long a change takes to all watchers, and what it costs."""
    told: asyncio.Queue[float] = asyncio.Queue()
    opened = asyncio.Semaphore(0)
    connector = aiohttp.TCPConnector(limit=0)
    lags: list[float] = []
    before = process.rss_mib(daemon.pid)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session, api(daemon) as client:
        tasks = [asyncio.create_task(follow(session, daemon.url, told, opened)) for _ in range(number)]
        for _ in range(number):
            await opened.acquire()
        await asyncio.sleep(0.5)
        memory, cpu = process.rss_mib(daemon.pid) - before, process.cpu_ms(daemon.pid)
        for i in range(rounds):
            began = time.perf_counter()
            await client.ask("PUT", "/v1/nodes/n0/maintenance", {"reason": f"look {i}"})
            lags += [await told.get() - began for _ in range(number)]
        each = (process.cpu_ms(daemon.pid) - cpu) / rounds / number
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    lags.sort()
    p50, p99 = lags[len(lags) // 2], lags[int(len(lags) * 0.99)]
    good = p99 <= WATCH_BAR
    print(
        f"watchers: a change reached {number} in {p50 * 1e3:.0f} ms (p50), {p99 * 1e3:.0f} ms (p99; bar {WATCH_BAR * 1e3:.0f}); "
        f"{each * 1e3:.0f} us CPU and {memory * 1024 / number:.0f} KiB for each watcher{'' if good else '  MISSED'}"
    )
    return good


async def main(arguments: argparse.Namespace) -> int:
    """Run both parts."""
    rabbit = PrivateRabbit()
    try:
        await asyncio.to_thread(rabbit.start)
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {"amqp.url": rabbit.url(), "amqp.publish": "false", "log.level": "warning"}
            async with Daemon(Path(folder), settings) as daemon:
                results = [
                    await commands(daemon, rabbit.url(), arguments.commands),
                    await watchers(daemon, arguments.watchers, arguments.rounds),
                ]
    finally:
        await asyncio.to_thread(rabbit.remove)
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if all(results) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=20_000, help="how many commands wait")
    parser.add_argument("--watchers", type=int, default=1000, help="how many watch")
    parser.add_argument("--rounds", type=int, default=20, help="how often the watched node changes")
    sys.exit(asyncio.run(main(parser.parse_args())))
