"""What followers get of a storm of real deployments: how soon, and whether all of it. Needs Debian's rabbitmq-server.

    python benchmarks/followers.py [--nodes 1000] [--reconnections 50] [--rounds 3]

A daemon of its own deploys as many nodes of fake-hardware at once, over the API. Meanwhile a consumer of the broker notes how long after
its moment each event came, and a watcher follows all events over HTTP, breaks its connection off as often as told, and comes back each
time with the last id that it has read. Followers, broker and daemon share the machine's processors.

Bars: 99 of 100 events are with the broker's consumer within 100 ms of their own time, which is a little before their transaction (of the
rounds the median counts); the watcher misses no event and sees none twice. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.delays import delays
from benchmarks.parts.deploy import Storm, deploy, session
from tests.support.daemon import Daemon
from tests.support.rabbit import PrivateRabbit, available

P99 = 0.100
_EVENTS_EACH = 11
"""Events of one deployment, at least: the watcher's reconnections are spread over those of all."""


class Watcher:
    """Reads the stream, and breaks it off now and then.

    Args:
        url: the daemon's.
        since: the number of the last event that it needs not see.
        each: after how many events it breaks off.
        times: how often it does so.
    """

    def __init__(self, url: str, since: int, each: int, times: int) -> None:
        self._url = f"{url}/v1/events/stream"
        self._each = each
        self._times = times
        self.since = since
        self.seen: list[int] = []
        self.reconnections = 0

    @property
    def last(self) -> int:
        """The number of the last event that it has read."""
        return self.seen[-1] if self.seen else self.since

    async def follow(self) -> None:
        """Follow for ever."""
        while True:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as web, self._open(web) as answer:
                await self._read(answer)
                assert answer.connection is not None
                assert answer.connection.transport is not None
                answer.connection.transport.abort()
            self.reconnections += 1

    def _open(self, web: aiohttp.ClientSession) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return web.get(self._url, headers={"Last-Event-ID": str(self.last)})

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        begun, number, kind = len(self.seen), 0, ""
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                kind = value
            elif not name and kind:
                if kind in ("gap", "end", "error"):
                    raise RuntimeError(f"the stream told of {kind}")
                self.seen.append(number)
                kind = ""
                if self.reconnections < self._times and len(self.seen) - begun >= self._each:
                    return


async def storm(url: str, arguments: argparse.Namespace) -> tuple[float, bool]:
    """One round: the 99th percentile of the delays, and whether the watcher got all."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        settings = {"amqp.url": url, "conductor.automated_clean": "false", "log.level": "warning"}
        async with Daemon(Path(folder), settings) as daemon, session() as http, delays(url) as end:
            await daemon.start()
            asking = Storm(http, daemon.url)
            uuids = await asking.available(arguments.nodes)
            first = int((await asking.ask("GET", "/v1/events?limit=1"))["last_seq"])
            each = max(1, arguments.nodes * _EVENTS_EACH // (arguments.reconnections + 1))
            watcher = Watcher(daemon.url, first, each, arguments.reconnections)
            following = asyncio.create_task(watcher.follow())
            figure = await deploy(asking, daemon.pid, uuids, pause=1.0)
            last = int((await asking.ask("GET", "/v1/events?limit=1"))["last_seq"])
            async with asyncio.timeout(120):
                while watcher.last < last:
                    assert not following.done(), following.result()
                    await asyncio.sleep(0.1)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await asyncio.sleep(1.0)
            found = await end()
            await daemon.stop()
    took = sorted(seconds for number, seconds in found.items() if first < number <= last)
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    whole = watcher.seen == list(range(first + 1, last + 1)) and watcher.reconnections >= arguments.reconnections
    whole = whole and len(took) == last - first and not figure.failed
    saw = set(watcher.seen)
    print(
        f"{arguments.nodes} deployed in {figure.wall:.1f} s, {last - first} events; the consumer had {len(took)}: "
        f"{p50 * 1e3:.0f} ms (p50), {p99 * 1e3:.0f} ms (p99), {took[-1] * 1e3:.0f} ms (most); the watcher came back "
        f"{watcher.reconnections} times and saw {len(saw)}, {len(watcher.seen) - len(saw)} of them twice{'' if whole else '  MISSED'}",
        flush=True,
    )
    return p99, whole


async def measure(rabbit: PrivateRabbit, arguments: argparse.Namespace) -> bool:
    """Storms, each on a fresh daemon and a fresh virtual host."""
    results = []
    for _ in range(arguments.rounds):
        host = rabbit.fresh_host()
        results.append(await storm(rabbit.url(host), arguments))
        with contextlib.suppress(RuntimeError):
            rabbit.remove_host(host)
    p99 = statistics.median(found for found, _ in results)
    good = p99 <= P99 and all(whole for _, whole in results)
    print(f"p99 {p99 * 1e3:.0f} ms (bar {P99 * 1e3:.0f}); {'all bars held' if good else 'A BAR WAS MISSED'}; load {os.getloadavg()[0]:.1f}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000, help="how many are deployed at once")
    parser.add_argument("--reconnections", type=int, default=50, help="how often the watcher breaks off")
    parser.add_argument("--rounds", type=int, default=3, help="how often it is measured")
    arguments = parser.parse_args()
    if not available():
        print("no RabbitMQ: apt-get install rabbitmq-server")
        return 1
    rabbit = PrivateRabbit()
    try:
        rabbit.start()
        return 0 if asyncio.run(measure(rabbit, arguments)) else 1
    finally:
        rabbit.remove()


if __name__ == "__main__":
    sys.exit(main())
