"""What requests cost the daemon: CPU per request, and how long they take one at a time and 64 at a time; start and memory.

    .venv/bin/python benchmarks/api.py [--nodes 1000,10000] [--json FILE]

A daemon of its own is started and filled with fake-hardware nodes. CPU is what the kernel counts for the daemon's process,
so that the client, which shares the machine, is left out. `benchmarks/beside/api.py` puts the same requests to an Ironic.

Bars: GET of a node and PATCH at most 250 us and 2.5 ms of CPU; a list of 1,000 with detail at most 15 ms; POST at most
3 ms; the 99th percentile of GETs from 64 clients below 50 ms while 1,000 fake deployments run; with 10,000 nodes 200 MiB
of memory and 1.5 s from the start of the process to the first list. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from benchmarks.parts import own
from benchmarks.parts.load import Client, Figure, measure, rounds, show
from tests.support.daemon import Daemon

BARS_MS = {"get": 0.25, "list 1000 detail": 15.0, "patch": 2.5, "post": 3.0}
_START_S = 1.5
_RSS_MIB = 200.0
_STORM_P99_MS = 50.0
_SETTINGS = {"log.level": "warning", "conductor.automated_clean": "false"}


async def one_size(nodes: int, session: aiohttp.ClientSession, missed: list[str]) -> list[Figure]:
    """Everything with so many nodes."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        async with Daemon(Path(folder), _SETTINGS) as daemon:
            await daemon.start()
            client = Client(session, daemon.url, [])
            await client.fill(nodes)
            await client.learn()
            await measure("warm", client.listing("?detail=true"), requests=3, clients=1, pid=daemon.pid)
            figures = await rounds(client, daemon.pid, scale=5)
            show(f"metald, {nodes} nodes", figures)
            missed += [f"{f.what} at {f.clients} clients: {f.cpu_ms:.2f} ms" for f in figures if f.cpu_ms > BARS_MS.get(f.what, 1e9)]
            missed += [f"{f.failed} of {f.what} failed" for f in figures if f.failed]
            await storm(daemon, client, missed)
            await daemon.stop()
            await starts(daemon, nodes, missed)
            return figures


async def starts(daemon: Daemon, nodes: int, missed: list[str]) -> None:
    """Start a daemon three times over the state that it has, and stop it again."""
    found = []
    for _ in range(3):
        found.append(await own.first_answer(daemon))
        await daemon.stop()
    took, rss = min(found)
    print(f"start to the first list {took:.2f} s (best of 3), {rss:.0f} MiB", flush=True)
    if took > _START_S:
        missed.append(f"start with {nodes} nodes takes {took:.2f} s")
    if rss > _RSS_MIB:
        missed.append(f"{nodes} nodes take {rss:.0f} MiB")


async def storm(daemon: Daemon, client: Client, missed: list[str]) -> None:
    """Reads by 64 clients while 1,000 nodes are deployed."""
    uuids = client.uuids[:1000]
    for target, state in (("manage", "manageable"), ("provide", "available")):
        for uuid in uuids:
            await client.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target}, expected=202)
        while len(json.loads(await client.ask("GET", f"/v1/nodes?provision_state={state}&fields=uuid&limit=1000"))["nodes"]) < len(uuids):
            await asyncio.sleep(0.1)
    took, wall = await own.readers(daemon, uuids, 64, client)
    p99 = took[int(len(took) * 0.99)]
    print(
        f"{len(uuids)} deployments in {wall:.1f} s; {len(took)} GETs from 64 clients: p50 {took[len(took) // 2]:.1f} ms, p99 {p99:.1f} ms"
    )
    if p99 > _STORM_P99_MS:
        missed.append(f"p99 of GETs while deploying: {p99:.1f} ms")


async def run(options: argparse.Namespace) -> int:
    missed: list[str] = []
    figures: dict[int, list[Figure]] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for nodes in map(int, options.nodes.split(",")):
            figures[nodes] = await one_size(nodes, session, missed)
    if options.json:
        Path(options.json).write_text(json.dumps({nodes: [f._asdict() for f in found] for nodes, found in figures.items()}))
    for line in missed:
        print("MISSED:", line)
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1000,10000", help="how many nodes, several with commas")
    parser.add_argument("--json", default="", help="write the figures there too")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
