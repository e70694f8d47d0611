"""A storm: a fleet from available to active at once, over fake hardware and over the simulated wire, with Ironic beside it.

    .venv/bin/python benchmarks/storm.py [--kinds fake,wire] [--nodes 100,1000,10000] [--deploy-interface ssh] [--alone] [--json FILE]

- fake: fake-hardware, asked by the API.
- wire: `metald sim` in a process of its own: IPMI, TFTP, HTTP, and a ramdisk that obeys over SSH (or Ironic's agent over HTTPS,
  with --deploy-interface direct). Machines are quick (their own waiting takes a hundredth of a second a second); from 10,000
  nodes on they take one to two minutes for their self-test, so that all of them are in flight at once.
- Ironic 39, fake hardware, with 100 and 1,000 nodes; left out by --alone.

Printed for each: seconds until the last node is active; the daemon's CPU per deployment and its resident memory; the most
deployments that were seen in flight; the 99th percentiles of the loop's lag (as a bucket of its histogram) and of reads of
nodes meanwhile; requests that were refused. Settings are the daemon's own. The client, the reader, the simulator and whatever
else runs share the machine: the load average is printed.

Bars: everything becomes active, nothing is refused, 99 % of reads take at most 100 ms. 1,000 fake deployments take at most 10 s
and 8 ms of CPU each, and with Ironic beside them a tenth of its time and a fifteenth of its CPU, as do 100. 1,000 on the wire
take at most 40 s. With 10,000 on the wire, all of them in flight at once, memory stays below 1 GiB and the loop's lag below
50 ms (99 %). CPU per deployment with 10,000 is at most 1.3 times that with 1,000. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.beside.deploy import ironic
from benchmarks.parts.bars import Bar, say, verdict
from benchmarks.parts.deploy import Storm, session
from benchmarks.parts.meanwhile import Meanwhile
from benchmarks.parts.process import cpu_ms, rss_mib
from benchmarks.parts.sim import sim
from benchmarks.parts.site import Site
from tests.support.daemon import Daemon

_KINDS = ("fake", "wire")
_MANY = 10_000
_QUICK = ("--time-scale", "0.01")
_SLOW = ("--time-scale", "1", "--post", "60-120", "--kernel-seconds", "1")
_WALL = {("fake", 1000): 10.0, ("wire", 1000): 40.0}
_FAKE_CPU_MS = 8.0
_READ_MS, _LAG_MS, _RSS_MIB, _GROWTH = 100.0, 50.0, 1024.0, 1.3
_FASTER, _LESS_CPU = 10.0, 15.0


class Cost:
    """Of a storm, from when it is made until `end`."""

    def __init__(self, nodes: int, pid: int) -> None:
        self.nodes, self._pid = nodes, pid
        self._cpu, self._begun = cpu_ms(pid), time.perf_counter()

    def end(self) -> None:
        self.wall = time.perf_counter() - self._begun
        self.cpu_ms, self.rss_mib = (cpu_ms(self._pid) - self._cpu) / self.nodes, rss_mib(self._pid)


class Figure(NamedTuple):
    """What a storm was like. What was not looked at is nan."""

    kind: str
    nodes: int
    wall: float
    cpu_ms: float
    rss_mib: float
    in_flight: float
    lag_p99_ms: float
    reads: float
    read_p99_ms: float
    refused: int
    failed: int


_TITLES = ("kind", "nodes", "wall s", "CPU ms each", "RSS MiB", "in flight", "lag p99 ms", "reads", "read p99 ms", "refused", "failed")


def _show(figure: Figure, *, titled: bool) -> None:
    if titled:
        print("".join(f"{title:>13}" for title in _TITLES))
    cells = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in figure)
    print("".join(f"{cell:>13}" for cell in cells), f" (load {os.getloadavg()[0]:.1f})", flush=True)


def _figure(kind: str, daemon: Daemon, looked: Meanwhile, cost: Cost, *, refused: int, failed: int) -> Figure:
    if failed or "Traceback" in daemon.output():
        print(daemon.output()[-3000:], file=sys.stderr)
    reads = (looked.in_flight, looked.lag_p99_ms, len(looked.reads), looked.p99_ms)
    return Figure(kind, cost.nodes, cost.wall, cost.cpu_ms, cost.rss_mib, *reads, refused + looked.refused, failed)


async def fake(count: int, _: Sequence[str]) -> Figure:
    """Fake hardware."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), {"conductor.automated_clean": "false", "log.level": "warning"}) as daemon, session() as http:
            await daemon.start()
            storm = Storm(http, daemon.url)
            uuids = await storm.available(count)
            storm.refused = 0
            async with Meanwhile(daemon.url) as looked:
                cost = Cost(count, daemon.pid)
                await storm.each(uuids, "active")
                states = await storm.until(count, "active", "deploy failed", pause=0.2)
                cost.end()
            figure = _figure("fake", daemon, looked, cost, refused=storm.refused, failed=count - states.get("active", 0))
            await daemon.stop()
    return figure


async def wire(count: int, more: Sequence[str]) -> Figure:
    """The simulated wire. The time is that from the first request until the last is active, as the simulator tells it."""
    words = (*(_QUICK if count < _MANY else _SLOW), *more)
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        site = Site(Path(folder))
        async with site.daemon as daemon:
            await daemon.start()
            async with sim(*site.words(count, "--deploy", "--once", *words)) as fleet:
                await fleet.until("enrolled")
                async with Meanwhile(daemon.url) as looked:
                    cost = Cost(count, daemon.pid)
                    line = await fleet.until("deployments:")
                    cost.end()
                said = await fleet.until("simulation took")
            active = line.partition(" active")[0].rpartition(" ")[2] if " active" in line else "0"
            figure = _figure("wire", daemon, looked, cost, refused=0, failed=count - int(active))
            await daemon.stop()
    print(f"     {line}\n     {said}")
    return figure


async def beside(count: int) -> Figure:
    """Ironic on fake hardware."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        found = await ironic(count, Path(folder))
    unknown = float("nan")
    return Figure("Ironic 39", count, found.wall, found.cpu_ms, found.rss_mib, *(unknown,) * 4, found.refused, found.failed)


def _own_bars(figures: Sequence[Figure]) -> Iterator[Bar]:
    for f in figures:
        of = f"{f.nodes} {f.kind} deployments"
        yield Bar(f"{of}: not active, or refused", f.failed + f.refused, 0)
        yield Bar(f"{of}: p99 of reads meanwhile", f.read_p99_ms, _READ_MS, "ms")
        if (f.kind, f.nodes) in _WALL:
            yield Bar(of, f.wall, _WALL[f.kind, f.nodes], "s")
        if f.kind == "fake" and f.nodes == 1000:
            yield Bar(f"{of}: CPU of each", f.cpu_ms, _FAKE_CPU_MS, "ms")
        if f.kind == "wire" and f.nodes >= _MANY:
            yield Bar(f"{of}: in flight at once", f.in_flight, f.nodes, least=True)
            yield Bar(f"{of}: memory", f.rss_mib, _RSS_MIB, "MiB")
            yield Bar(f"{of}: p99 of the loop's lag", f.lag_p99_ms, _LAG_MS, "ms")


def _ratios(figures: Sequence[Figure]) -> Iterator[Bar]:
    at = {(f.kind, f.nodes): f for f in figures}
    for (kind, nodes), theirs in at.items():
        own = at.get(("fake", nodes))
        if kind == "Ironic 39" and own is not None:
            yield Bar(f"{nodes} deployments: times faster than Ironic", theirs.wall / own.wall, _FASTER, least=True)
            yield Bar(f"{nodes} deployments: times less CPU than Ironic", theirs.cpu_ms / own.cpu_ms, _LESS_CPU, least=True)
    for kind in _KINDS:
        few, many = at.get((kind, 1000)), at.get((kind, _MANY))
        if few is not None and many is not None:
            yield Bar(f"CPU per {kind} deployment with {_MANY} against 1000", many.cpu_ms / few.cpu_ms, _GROWTH, "times")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(_KINDS), help="which, with commas")
    parser.add_argument("--nodes", default="100,1000,10000", help="how many at once, several with commas")
    parser.add_argument("--deploy-interface", default="", help="of the nodes on the wire (default: the daemon's own)")
    parser.add_argument("--alone", action="store_true", help="without Ironic beside it")
    parser.add_argument("--json", type=Path, help="write the bars' figures there too")
    arguments = parser.parse_args()
    more = ("--deploy-interface", arguments.deploy_interface) if arguments.deploy_interface else ()
    counts = [int(word) for word in arguments.nodes.split(",")]
    figures: list[Figure] = []

    def add(figure: Figure) -> None:
        figures.append(figure)
        _show(figure, titled=len(figures) == 1)

    for kind in arguments.kinds.split(","):
        for count in counts:
            if kind == "fake" and not arguments.alone and count <= 1000:
                add(asyncio.run(beside(count)))
            add(asyncio.run({"fake": fake, "wire": wire}[kind](count, more)))
    bars = [*_own_bars(figures), *_ratios(figures)]
    say(bars)
    return verdict(bars, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
