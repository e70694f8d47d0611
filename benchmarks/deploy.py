"""Many deployments at once through the API, and what the API still feels like meanwhile.

    .venv/bin/python benchmarks/deploy.py [--cases 100,1000,500:10,5000:60] [--rounds 3] [--json FILE]

A daemon of its own is started; fake-hardware nodes are enrolled and made available; then all are deployed at once while a
reader in a process of its own lists the nodes without a pause. A case `500:10` means 500 nodes whose hardware takes 10 s.
Printed for each: seconds until the last is active, deployments a second, the daemon's CPU per deployment, its resident
memory, and how long a list of the first 1,000 nodes took between the first request and the last node's `active`. Of the
rounds for one case the one with the median 99th percentile is shown; a case with hardware time runs once. The reader, the
client and the daemon share the machine, and so does everything else that runs on it.

Bars: with 100 nodes the 99th percentile of the lists stays under 50 ms, in every case under 100 ms; 1,000 deployments take
at most 10 s and 8 ms of CPU each; 500 with 10 s of hardware time at most 13 s, 5,000 with 60 s at most 100 s; no request is
refused; the CPU per deployment at 1,000 is at most 1.5 times that at 100; every node becomes active. Exits 1 when one is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.deploy import Figure, Storm, deploy, reading, session, show
from tests.support.daemon import Daemon

_LIST_BARS_MS = {100: 50.0}
_ANY_LIST_BAR_MS = 100.0
_CPU_BAR_MS = 8.0
_GROWTH_BAR = 1.5
_WALL_BARS_S = {(1000, 0.0): 10.0, (500, 10.0): 13.0, (5000, 60.0): 100.0}


async def measure(count: int, delay: float) -> Figure:
    """Deploy `count` nodes at once on a fresh daemon."""
    settings = {"conductor.automated_clean": "false", "drivers.fake.deploy_delay": delay, "log.level": "warning"}
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), settings) as daemon, session() as http:
            await daemon.start()
            storm = Storm(http, daemon.url)
            uuids = await storm.available(count)
            async with reading(daemon.url) as reads:
                figure = await deploy(storm, daemon.pid, uuids, reads=reads, delay=delay, pause=1.0 if delay else 0.1)
            if figure.failed or "Traceback" in daemon.output():
                print(daemon.output()[-3000:], file=sys.stderr)
            await daemon.stop()
            return figure


def _missed(figures: list[Figure]) -> list[str]:
    missed = [f"{f.failed} of {f.nodes} deployments failed" for f in figures if f.failed]
    missed += [f"{f.refused} requests were refused with {f.nodes} nodes" for f in figures if f.refused]
    for f in figures:
        bar = _LIST_BARS_MS.get(f.nodes, _ANY_LIST_BAR_MS)
        if f.p99_ms >= bar:
            missed.append(f"GET /v1/nodes p99 is {f.p99_ms:.1f} ms with {f.nodes} nodes (bar {bar:g})")
        wall = _WALL_BARS_S.get((f.nodes, f.delay))
        if wall is not None and f.wall > wall:
            missed.append(f"{f.nodes} deployments of {f.delay:g} s took {f.wall:.1f} s (bar {wall:g})")
        # with hardware time the reader's own requests are most of the CPU
        if not f.delay and f.cpu_ms > _CPU_BAR_MS:
            missed.append(f"CPU per deployment is {f.cpu_ms:.2f} ms with {f.nodes} nodes (bar {_CPU_BAR_MS:g})")
    at = {f.nodes: f.cpu_ms for f in figures if not f.delay}
    if {100, 1000} <= at.keys() and at[1000] > _GROWTH_BAR * at[100]:
        missed.append(f"CPU per deployment: {at[1000]:.2f} ms with 1000 nodes, {at[100]:.2f} ms with 100 (bar {_GROWTH_BAR:g} times)")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="100,1000,500:10,5000:60", help="nodes or nodes:seconds, several with commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case without hardware time is measured")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for case in arguments.cases.split(","):
        count, _, delay = case.partition(":")
        times = 1 if delay else arguments.rounds
        rounds = sorted((asyncio.run(measure(int(count), float(delay or 0))) for _ in range(times)), key=lambda f: f.p99_ms)
        figures.append(rounds[len(rounds) // 2])
        show(figures[-1:], titles=len(figures) == 1)
    if arguments.json:
        arguments.json.write_text(json.dumps([f._asdict() for f in figures], indent=2))
    missed = _missed(figures)
    print("\n".join(f"missed: {text}" for text in missed) or "all bars are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
