"""What followers get of a storm of real deployments: how soon, and whether all of it. Needs Debian's rabbitmq-server.

    python benchmarks/followers.py [--nodes 1000] [--reconnections 50] [--rounds 3]

A daemon of its own deploys as many nodes of fake-hardware at once, over the API. Meanwhile a consumer of the broker, in a process that also
sees the database and the loopback device, notes how long after its transaction each event came (benchmarks/parts/delays.py), and a watcher
follows all events over HTTP, breaks its connection off as often as told, and comes back each time with the last id that it has read.
Followers, broker and daemon share the machine's processors; how much each took is printed.

Bars: of 100 events 99 have left the daemon for the broker within 100 ms of their transaction, as seen on the loopback device and counted
from the last moment at which it was not durable yet (of the rounds the median counts); the watcher misses no event and sees none twice.
Exits with 1 when one is missed. Printed beside it: until the event was with the consumer's kernel, which is the broker's part, until the
consumer had it, and how long the consumer's process, which does little, had to wait for a processor: where that is much, others were at
work on the machine. Who may not look at the loopback device (that takes root) has the consumer's moments instead, broker and all.
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

from benchmarks.parts.broker import broker
from benchmarks.parts.delays import delays
from benchmarks.parts.deploy import Storm, deploy, session
from benchmarks.parts.process import cpu_ms
from tests.support.daemon import Daemon
from tests.support.rabbit import PrivateRabbit

WITHIN = 0.1
"""Seconds."""
SHARE = 0.99
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


async def storm(rabbit: PrivateRabbit, url: str, arguments: argparse.Namespace) -> tuple[float, bool]:
    """One round: within how many seconds 99 of 100 events had left, and whether everybody got all."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        settings = {"amqp.url": url, "conductor.automated_clean": "false", "log.level": "warning"}
        daemon = Daemon(Path(folder), settings)
        async with daemon, session() as http, delays(url, daemon.state_dir / "metald.sqlite") as consumer:
            await daemon.start()
            asking = Storm(http, daemon.url)
            uuids = await asking.available(arguments.nodes)
            first = int((await asking.ask("GET", "/v1/events?limit=1"))["last_seq"])
            each = max(1, arguments.nodes * _EVENTS_EACH // (arguments.reconnections + 1))
            watcher = Watcher(daemon.url, first, each, arguments.reconnections)
            following = asyncio.create_task(watcher.follow())
            processes = {"daemon": daemon.pid, "broker": rabbit.pid, "consumer": consumer.pid, "all": os.getpid()}
            began = {name: cpu_ms(pid) for name, pid in processes.items()}
            figure = await deploy(asking, daemon.pid, uuids, pause=1.0)
            took = {name: cpu_ms(pid) - began[name] for name, pid in processes.items()}
            last = int((await asking.ask("GET", "/v1/events?limit=1"))["last_seq"])
            async with asyncio.timeout(120):
                while watcher.last < last:
                    assert not following.done(), following.result()
                    await asyncio.sleep(0.1)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await asyncio.sleep(1.0)
            found = await consumer.end()
            await daemon.stop()
    moments = [one for number, one in found.items() if first < number <= last]
    whole = watcher.seen == list(range(first + 1, last + 1)) and watcher.reconnections >= arguments.reconnections
    whole = whole and len(moments) == last - first and not figure.failed
    saw = set(watcher.seen)
    twice = len(watcher.seen) - len(saw)
    print(f"{arguments.nodes} deployed in {figure.wall:.1f} s, {last - first} events; the consumer had {len(moments)}")
    print("  CPU: " + ", ".join(f"{name} {ms / 1e3:.1f} s" for name, ms in took.items()) + f"; {os.cpu_count()} processors")
    p99 = _line("with the consumer after the last moment without it", [one.read - one.before for one in moments])
    _line("with the consumer after the first moment with it", [one.read - one.durable for one in moments])
    if all(one.written is not None for one in moments):
        p99 = _line("  had left the daemon", [(one.written or 0) - one.before for one in moments])
        _line("  from there to the consumer's kernel", [one.came - (one.written or 0) for one in moments])
    _line("  read by the consumer", [one.read - one.came for one in moments])
    _line("  between two looks at the database", [one.durable - one.before for one in moments])
    print(
        f"  the watcher came back {watcher.reconnections} times and saw {len(saw)}, {twice} of them twice{'' if whole else '  MISSED'}",
        flush=True,
    )
    return p99, whole


def _line(name: str, seconds: list[float]) -> float:
    """Print how long something took; what 99 of 100 did not exceed."""
    took = sorted(seconds)
    p50, p99 = took[len(took) // 2], took[int(len(took) * SHARE)]
    print(f"  {name:<52} {p50 * 1e3:7.1f} ms (p50) {p99 * 1e3:7.1f} ms (p99) {took[-1] * 1e3:7.1f} ms (worst)")
    return p99


async def measure(rabbit: PrivateRabbit, arguments: argparse.Namespace) -> bool:
    """Storms, each on a fresh daemon and a fresh virtual host."""
    results = []
    for _ in range(arguments.rounds):
        host = rabbit.fresh_host()
        results.append(await storm(rabbit, rabbit.url(host), arguments))
        with contextlib.suppress(RuntimeError):
            rabbit.remove_host(host)
    p99 = statistics.median(found for found, _ in results)
    good = p99 <= WITHIN and all(whole for _, whole in results)
    said = "all bars held" if good else "A BAR WAS MISSED"
    print(f"p99 {p99 * 1e3:.0f} ms until events left (bar {WITHIN * 1e3:.0f} ms); {said}; load {os.getloadavg()[0]:.1f}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000, help="how many are deployed at once")
    parser.add_argument("--reconnections", type=int, default=50, help="how often the watcher breaks off")
    parser.add_argument("--rounds", type=int, default=3, help="how often it is measured")
    arguments = parser.parse_args()
    with broker() as rabbit:
        return 0 if asyncio.run(measure(rabbit, arguments)) else 1


if __name__ == "__main__":
    sys.exit(main())
