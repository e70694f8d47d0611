"""Many deployments at once through the API, and what the API still feels like meanwhile.

    .venv/bin/python benchmarks/deploy.py [--nodes 100,1000] [--rounds 3] [--delay 0] [--json FILE]

A daemon of its own is started; fake-hardware nodes are enrolled and made available; then all are deployed at once while a
reader in a process of its own lists the nodes without a pause. Printed for each N: seconds until the last is active,
deployments a second, the daemon's CPU per deployment, its resident memory, and how long a list of all nodes took
between the first request and the last node's `active`. Of the rounds for one N the one with the median 99th percentile
is shown. The reader, the client and the daemon share the machine, and so does everything else that runs on it.

Bars: with 100 nodes the 99th percentile of the lists stays under 50 ms; the CPU per deployment at the largest N is at
most 1.5 times that at the smallest; every node becomes active. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import select
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from tests.support.daemon import MICROVERSION, Daemon

GET_BAR_MS = 50.0
GROWTH_BAR = 1.5
_AT_ONCE = 64


class Figure(NamedTuple):
    nodes: int
    wall: float
    accepted: float
    cpu_ms: float
    rss_mib: float
    reads: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failed: int


def read_until_told(address: str) -> None:
    """The reader's process: list the nodes again and again, and print how long each took once the input ends."""
    connection = http.client.HTTPConnection(address, timeout=60)
    took: list[tuple[float, float]] = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.perf_counter()
        connection.request("GET", "/v1/nodes", headers={"X-OpenStack-Ironic-API-Version": MICROVERSION})
        answer = connection.getresponse()
        answer.read()
        took.append((begun, time.perf_counter() - begun))
        if answer.status != 200:
            raise SystemExit(f"GET /v1/nodes answered {answer.status}")
    json.dump(took, sys.stdout)


class Client:
    """Asks many things at once."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        async with self._session.request(method, self._url + path, json=body) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:300]}")
            return json.loads(text) if text else None

    async def each(self, uuids: list[str], target: str) -> None:
        await asyncio.gather(*(self.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target}) for uuid in uuids))

    async def states(self) -> dict[str, int]:
        """How many nodes are in each provision state."""
        counted: dict[str, int] = {}
        path = "/v1/nodes?fields=uuid,provision_state&limit=1000"
        while path:
            page = await self.ask("GET", path)
            for node in page["nodes"]:
                counted[node["provision_state"]] = counted.get(node["provision_state"], 0) + 1
            path = page.get("next", "").removeprefix(self._url) if page.get("next") else ""
        return counted

    async def until(self, count: int, *states: str) -> dict[str, int]:
        while True:
            found = await self.states()
            if sum(found.get(state, 0) for state in states) >= count:
                return found
            await asyncio.sleep(0.1)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def _available(client: Client, count: int) -> list[str]:
    body = {"driver": "fake-hardware"}
    made = await asyncio.gather(*(client.ask("POST", "/v1/nodes", {**body, "name": f"bench-{n}"}) for n in range(count)))
    uuids = [node["uuid"] for node in made]
    for verb, state in (("manage", "manageable"), ("provide", "available")):
        await client.each(uuids, verb)
        await client.until(count, state)
    return uuids


async def measure(count: int, delay: float) -> Figure:
    """Deploy `count` nodes at once on a fresh daemon."""
    settings = {"conductor.automated_clean": "false", "drivers.fake.deploy_delay": delay, "log.level": "warning"}
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), settings) as daemon:
            await daemon.start()
            connector = aiohttp.TCPConnector(limit=_AT_ONCE)
            headers = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
            timeout = aiohttp.ClientTimeout(total=600)
            async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
                client = Client(session, daemon.url)
                figure = await _deploy(client, daemon, await _available(client, count))
            if figure.failed or "Traceback" in daemon.output():
                print(daemon.output()[-3000:], file=sys.stderr)
            await daemon.stop()
            return figure


async def _deploy(client: Client, daemon: Daemon, uuids: list[str]) -> Figure:
    reader = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--reader",
        daemon.url.removeprefix("http://"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await asyncio.sleep(0.5)  # the reader is at it before the storm begins
    cpu, begun = _cpu(daemon.pid), time.perf_counter()
    await client.each(uuids, "active")
    accepted = time.perf_counter() - begun
    states = await client.until(len(uuids), "active", "deploy failed")
    wall = time.perf_counter() - begun
    cpu = _cpu(daemon.pid) - cpu
    output, _ = await reader.communicate(b"\n")
    # perf_counter is the same clock in every process on Linux
    took = sorted(1000 * seconds for at, seconds in json.loads(output) if begun <= at <= begun + wall)
    return Figure(
        nodes=len(uuids),
        wall=wall,
        accepted=accepted,
        cpu_ms=1000 * cpu / len(uuids),
        rss_mib=_rss(daemon.pid),
        reads=len(took),
        p50_ms=took[len(took) // 2],
        p99_ms=took[int(len(took) * 0.99)],
        worst_ms=took[-1],
        failed=len(uuids) - states.get("active", 0),
    )


def _missed(figures: list[Figure]) -> list[str]:
    missed = [f"{f.failed} of {f.nodes} deployments failed" for f in figures if f.failed]
    slow = [f for f in figures if f.nodes == 100 and f.p99_ms >= GET_BAR_MS]
    missed += [f"GET /v1/nodes p99 is {f.p99_ms:.1f} ms with 100 nodes (bar {GET_BAR_MS:g})" for f in slow]
    first, last = figures[0], figures[-1]
    if last.cpu_ms > GROWTH_BAR * first.cpu_ms:
        how = f"{last.cpu_ms:.2f} ms with {last.nodes} nodes, {first.cpu_ms:.2f} ms with {first.nodes}"
        missed.append(f"CPU per deployment: {how} (bar {GROWTH_BAR:g} times)")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="100,1000", help="how many at once, several with commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often each N is measured")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each deploy call of the fake hardware takes")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        read_until_told(arguments.reader)
        return 0
    titles = ("nodes", "accepted s", "all active s", "per s", "CPU ms each", "RSS MiB", "GETs", "p50 ms", "p99 ms", "worst")
    print(" ".join(f"{title:>12}" for title in titles))
    figures = []
    for count in sorted(int(word) for word in arguments.nodes.split(",")):
        rounds = sorted((asyncio.run(measure(count, arguments.delay)) for _ in range(arguments.rounds)), key=lambda f: f.p99_ms)
        f = rounds[len(rounds) // 2]
        figures.append(f)
        shown = (f.nodes, f.accepted, f.wall, f.nodes / f.wall, f.cpu_ms, f.rss_mib, f.reads, f.p50_ms, f.p99_ms, f.worst_ms)
        print(" ".join(f"{value:>12}" if isinstance(value, int) else f"{value:>12.2f}" for value in shown))
    if arguments.json:
        arguments.json.write_text(json.dumps([f._asdict() for f in figures], indent=2))
    missed = _missed(figures)
    print("\n".join(f"missed: {text}" for text in missed) or "all bars are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
