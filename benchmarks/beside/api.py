"""The same requests to metald and to a real Ironic 39 in one run: how many times less CPU they take.

    .venv/bin/python -m benchmarks.beside.api [--nodes 1000,10000] [--parts]

Both are one process on SQLite with as many fake-hardware nodes; with `--parts` Ironic is its API and its conductor, on MariaDB
(Debian's mariadb-server) and RabbitMQ, which are not counted. CPU is what the kernel counts for the server's process.
Requests that Ironic drops (its listen queue holds five) are counted as failed and its figures are of the others.

Bars: GET of a node and lists at least 20 times less CPU, PATCH and POST at least 15 times less; 1,000 nodes with detail
under 15 ms; the 99th percentile of GETs from 64 clients below 50 ms while 1,000 fake deployments run; with every number of
nodes 200 MiB of memory at most, and 1.5 s from the start of the process to the first list. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from benchmarks.api import starts, storm
from benchmarks.beside.ironic import Ironic
from benchmarks.parts.load import Client, Figure, measure, rounds, show
from benchmarks.parts.process import rss_mib
from tests.support.daemon import Daemon

_WRITES = ("patch", "post")
_READ_TIMES = 20
_WRITE_TIMES = 15
_DETAIL_MS = 15.0


async def metald(nodes: int, session: aiohttp.ClientSession, folder: Path, missed: list[str]) -> list[Figure]:
    """metald's figures; what they miss of the bars that are its own is noted."""
    async with Daemon(folder, {"log.level": "warning", "conductor.automated_clean": "false"}) as daemon:
        await daemon.start()
        client = Client(session, daemon.url, [])
        await client.fill(nodes)
        await daemon.stop()
        await starts(daemon, nodes, missed)
        await daemon.start()
        await client.learn()
        await measure("warm", client.listing("?detail=true"), requests=3, clients=1, pid=daemon.pid)
        figures = await rounds(client, daemon.pid, scale=5)
        show(f"metald, {nodes} nodes", figures)
        await storm(daemon, client, missed)
        await daemon.stop()
    return figures


async def ironic(nodes: int, session: aiohttp.ClientSession, folder: Path, *, parts: bool) -> list[Figure]:
    """Ironic's figures."""
    async with Ironic(folder, parts=parts) as server:
        client = Client(session, server.url, [])
        await client.fill(1, 1)
        await server.stop()
        server.multiply(nodes)
        begun = time.perf_counter()
        await server.start()
        took, rss = time.perf_counter() - begun, rss_mib(server.pid)
        await client.learn()
        await measure("warm", client.show, requests=10, clients=1, pid=server.pid)
        figures = await rounds(client, server.pid, scale=1)
        show(f"Ironic 39, {nodes} nodes: start {took:.1f} s, {rss:.0f} MiB at start", figures)
    return figures


def compare(own: list[Figure], other: list[Figure], missed: list[str]) -> None:
    """Print how many times less CPU each request takes, and note what is below its bar."""
    for mine, theirs in zip(own, other, strict=True):
        times = theirs.cpu_ms / max(mine.cpu_ms, 1e-6)
        bar = _WRITE_TIMES if mine.what in _WRITES else _READ_TIMES
        print(
            f"{mine.what:18} {mine.clients:7} {times:8.0f} times less CPU (bar {bar}), p99 {theirs.p99_ms / mine.p99_ms:6.1f} times shorter"
        )
        if times < bar:
            missed.append(f"{mine.what} from {mine.clients} clients takes only {times:.1f} times less CPU")
    missed += [f"{f.what}: {f.cpu_ms:.1f} ms" for f in own if f.what == "list 1000 detail" and f.cpu_ms > _DETAIL_MS]


async def run(sizes: list[int], *, parts: bool) -> int:
    missed: list[str] = []
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        for nodes in sizes:
            with tempfile.TemporaryDirectory(prefix="metald-beside-") as folder:
                theirs = await ironic(nodes, session, Path(folder) / "ironic", parts=parts)
                own = await metald(nodes, session, Path(folder) / "metald", missed)
            compare(own, theirs, missed)
    for line in missed:
        print("MISSED:", line)
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1000,10000", help="how many nodes, several with commas")
    parser.add_argument("--parts", action="store_true", help="Ironic's API and conductor as processes of their own")
    asked = parser.parse_args()
    return asyncio.run(run([int(word) for word in asked.nodes.split(",")], parts=asked.parts))


if __name__ == "__main__":
    sys.exit(main())
