"""What being followed costs: a storm of deployments with a broker and watchers against the same without, in turns. Needs rabbitmq-server.

    python benchmarks/followed.py [--cases 1000,1000:10] [--watchers 100] [--rounds 5] [--accept "gzip, deflate"]

Each round deploys nodes of fake-hardware on a fresh daemon without anything, and on another that publishes every event to a private
RabbitMQ (with a durable queue that wants all of them) while the watchers follow all events over HTTP from a process of their own. They
accept the codings that aiohttp, requests and httpx send by themselves (`--accept identity` has them take plain bytes); one of them
unpacks and reads everything, and none may be missing.

A case `1000:10` means 1,000 nodes whose hardware takes 10 s, which is little for hardware. Its bar is on deployments for each second
of the clock. A case `1000` has hardware that takes no time, so the daemon is all that there is to wait for. The broker and the watchers
then share this machine's processors with it, as nothing of theirs would elsewhere, and two processors are too few for all of them; so
the bar of such a case is on deployments for each CPU-second of the daemon, and those for each second are printed beside it. What
all rounds took together counts, as processors that are shared with strangers are not always as fast; a case with hardware time has one
round. Exits with 1 when a followed storm keeps less than 80 %, a deployment
fails, or an event is not published or not seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
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


async def storm(nodes: int, delay: float, url: str, watchers: int, accepted: str) -> Figure:
    """Deploy the nodes on a fresh daemon; followed if there is a broker.

    Raises:
        RuntimeError: a watcher missed an event.
    """
    settings: dict[str, object] = {
        "conductor.automated_clean": "false",
        "drivers.fake.deploy_delay": delay,
        "log.level": "warning",
    }
    if url:
        await bound(url)
        settings["amqp.url"] = url
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), settings) as daemon, session() as http:
            await daemon.start()
            asking = Storm(http, daemon.url)
            uuids = await asking.available(nodes)
            if not url:
                figure = await deploy(asking, daemon.pid, uuids, delay=delay)
            else:
                before = await last_event(asking)
                async with watching(daemon.url, watchers, accepted) as end:
                    figure = await deploy(asking, daemon.pid, uuids, delay=delay)
                    got = await end(await last_event(asking))
                if got.numbers != list(range(before + 1, got.numbers[-1] + 1)):
                    raise RuntimeError("a watcher missed events, or saw some twice")
                seen = f"{len(got.numbers)} events in {got.bytes / 1e6:.1f} MB {got.coding or 'plain'}, {got.least / 1e6:.2f} MB for each"
                print(f"  {await published(url, asking)} events are with the broker; watchers accept {accepted}: {seen}", flush=True)
            await daemon.stop()
    return figure


async def measure(nodes: int, delay: float, watchers: int, rounds: int, accepted: str, url: str) -> bool:
    """Storms in turns. Returns whether the bar holds."""
    pairs: list[tuple[Figure, Figure]] = []
    for number in range(rounds):
        alone, followed = await storm(nodes, delay, "", 0, ""), await storm(nodes, delay, url, watchers, accepted)
        pairs.append((alone, followed))
        print(
            f"round {number + 1}: alone {nodes / alone.wall:.0f}/s and {alone.cpu_ms:.2f} ms CPU each, with AMQP and {watchers} watchers "
            f"{nodes / followed.wall:.0f}/s and {followed.cpu_ms:.2f} ms",
            flush=True,
        )
    by_cpu = sum(alone.cpu_ms for alone, _ in pairs) / sum(followed.cpu_ms for _, followed in pairs)
    by_clock = sum(alone.wall for alone, _ in pairs) / sum(followed.wall for _, followed in pairs)
    good = (by_clock if delay else by_cpu) >= KEPT and not any(alone.failed or followed.failed for alone, followed in pairs)
    bar = f"(bar {KEPT:.0%} {'by the clock' if delay else 'by CPU'}){'' if good else '  MISSED'}"
    kept = f"keeps {by_clock:.0%} by the clock, {by_cpu:.0%} by CPU {bar}"
    print(f"{nodes} nodes whose hardware takes {delay:g} s: {kept}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="1000,1000:10", help="nodes or nodes:seconds, several with commas")
    parser.add_argument("--watchers", type=int, default=100, help="how many follow all events")
    parser.add_argument("--rounds", type=int, default=5, help="how often a case without hardware time is measured")
    parser.add_argument("--accept", default="gzip, deflate", help="the watchers' Accept-Encoding")
    arguments = parser.parse_args()
    good = True
    with broker() as rabbit:
        for case in arguments.cases.split(","):
            nodes, _, delay = case.partition(":")
            url = rabbit.url(rabbit.fresh_host())
            rounds = 1 if delay else arguments.rounds
            good &= asyncio.run(measure(int(nodes), float(delay or 0), arguments.watchers, rounds, arguments.accept, url))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
