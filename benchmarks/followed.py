"""What being followed costs: a storm of deployments with a broker and watchers against the same without, in turns. Needs rabbitmq-server.

    python benchmarks/followed.py [--nodes 500] [--watchers 100] [--rounds 3] [--accept "gzip, deflate"]

Each round deploys as many nodes of fake-hardware on a fresh daemon without anything, and on another that publishes every event to a
private RabbitMQ (with a durable queue that wants all of them) while the watchers follow all events over HTTP from a process of
their own. They accept the codings that aiohttp, requests and httpx send by themselves (`--accept identity` has them take plain bytes);
one of them unpacks and reads everything, and none may be missing. The broker and the watchers share this machine's processors with the
daemon, as nothing of theirs would elsewhere; so the bar is on deployments for each CPU-second of the daemon, and those for each second
are printed beside it. Of the rounds the median counts. Exits with 1 when the followed storm keeps less than 80 %, a deployment fails, or
an event is not published or not seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

import aio_pika

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.broker import broker
from benchmarks.parts.deploy import Figure, Storm, deploy, session
from benchmarks.parts.watchers import watching
from tests.support.daemon import Daemon

KEPT = 0.8
QUEUE = "everything"


async def bound(url: str) -> None:
    """A queue that wants everything, empty."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(exchange, "#")
        await queue.purge()


async def last_event(http: Storm) -> int:
    """The number of the last event."""
    return int((await http.ask("GET", "/v1/events?limit=1"))["last_seq"])


async def published(url: str, http: Storm) -> int:
    """Wait until the queue has as many events as there are. Returns how many."""
    connection = await aio_pika.connect(url)
    async with connection, asyncio.timeout(60):
        channel = await connection.channel()
        while True:
            last = await last_event(http)
            found = (await channel.declare_queue(QUEUE, durable=True, passive=True)).declaration_result.message_count or 0
            if found >= last:
                return found
            await asyncio.sleep(0.1)


async def storm(nodes: int, url: str, watchers: int, accepted: str) -> Figure:
    """Deploy the nodes on a fresh daemon; followed if there is a broker.

    Raises:
        RuntimeError: a watcher missed an event.
    """
    settings: dict[str, object] = {"conductor.automated_clean": "false", "log.level": "warning"}
    if url:
        await bound(url)
        settings["amqp.url"] = url
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), settings) as daemon, session() as http:
            await daemon.start()
            asking = Storm(http, daemon.url)
            uuids = await asking.available(nodes)
            if not url:
                figure = await deploy(asking, daemon.pid, uuids)
            else:
                before = await last_event(asking)
                async with watching(daemon.url, watchers, accepted) as end:
                    figure = await deploy(asking, daemon.pid, uuids)
                    got = await end(await last_event(asking))
                if got.numbers != list(range(before + 1, got.numbers[-1] + 1)):
                    raise RuntimeError("a watcher missed events, or saw some twice")
                seen = f"{len(got.numbers)} events in {got.bytes / 1e6:.1f} MB {got.coding or 'plain'}, {got.least / 1e6:.2f} MB for each"
                print(f"  {await published(url, asking)} events are with the broker; watchers accept {accepted}: {seen}", flush=True)
            await daemon.stop()
    return figure


async def measure(nodes: int, watchers: int, rounds: int, accepted: str, url: str) -> bool:
    """Storms in turns."""
    kept, good = [], True
    for number in range(rounds):
        alone, followed = await storm(nodes, "", 0, ""), await storm(nodes, url, watchers, accepted)
        kept.append(alone.cpu_ms / followed.cpu_ms)
        by_time = alone.wall / followed.wall
        good = good and not alone.failed and not followed.failed
        print(
            f"round {number + 1}: alone {nodes / alone.wall:.0f}/s and {alone.cpu_ms:.2f} ms CPU each, with AMQP and {watchers} watchers "
            f"{nodes / followed.wall:.0f}/s and {followed.cpu_ms:.2f} ms: keeps {kept[-1]:.0%} by CPU, {by_time:.0%} by time",
            flush=True,
        )
    found = statistics.median(kept)
    good = good and found >= KEPT
    print(f"keeps {found:.0%} (bar {KEPT:.0%}){'' if good else '  MISSED'}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500, help="how many are deployed at once")
    parser.add_argument("--watchers", type=int, default=100, help="how many follow all events")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are measured")
    parser.add_argument("--accept", default="gzip, deflate", help="the watchers' Accept-Encoding")
    arguments = parser.parse_args()
    with broker() as rabbit:
        url = rabbit.url(rabbit.fresh_host())
        return 0 if asyncio.run(measure(arguments.nodes, arguments.watchers, arguments.rounds, arguments.accept, url)) else 1


if __name__ == "__main__":
    sys.exit(main())
