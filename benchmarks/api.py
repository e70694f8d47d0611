"""What requests cost the daemon: CPU per request, and how long they take one at a time and 64 at a time.

    .venv/bin/python benchmarks/api.py [--nodes 1000] [--json FILE] [--beside URL --beside-pid PID]

A daemon of its own is started and filled with fake-hardware nodes. CPU is what the kernel counts for the daemon's process,
so that the client, which shares the machine, is left out. With `--beside` the same requests go to another server that
speaks the API, such as an Ironic with as many nodes.

Bars: GET of a node and PATCH at most 250 us and 2.5 ms of CPU; a list of 1,000 with detail at most 15 ms; POST at most
3 ms. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from tests.support.daemon import MICROVERSION, Daemon

BARS_MS = {"get": 0.25, "list 1000 detail": 15.0, "patch": 2.5, "post": 3.0}
_HEADERS = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
_TICK_MS = 1000.0 / os.sysconf("SC_CLK_TCK")

Send = Callable[[int], Awaitable[None]]


class Figure(NamedTuple):
    what: str
    clients: int
    requests: int
    cpu_ms: float
    p50_ms: float
    p99_ms: float


def cpu_ms(pid: int) -> float:
    """CPU that a process has used, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS


async def measure(what: str, send: Send, *, requests: int, clients: int, pid: int) -> Figure:
    """Send requests from some clients at once."""
    took: list[float] = []
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await send(number)
            took.append(time.perf_counter() - begun)

    before = cpu_ms(pid)
    await asyncio.gather(*(client() for _ in range(clients)))
    used = cpu_ms(pid) - before
    took.sort()
    return Figure(what, clients, requests, used / requests, took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000)


class Client:
    """The requests of the benchmark."""

    def __init__(self, session: aiohttp.ClientSession, url: str, uuids: list[str]) -> None:
        self._session = session
        self._url = url
        self._uuids = uuids

    async def get(self, path: str) -> bytes:
        async with self._session.get(f"{self._url}{path}", headers=_HEADERS) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()

    async def show(self, number: int) -> None:
        await self.get(f"/v1/nodes/{self._uuids[number % len(self._uuids)]}")

    def listing(self, query: str) -> Send:
        async def send(_number: int) -> None:
            await self.get(f"/v1/nodes{query}")

        return send

    async def patch(self, number: int) -> None:
        body = [{"op": "add", "path": "/extra/n", "value": number}]
        path = f"{self._url}/v1/nodes/{self._uuids[number % len(self._uuids)]}"
        async with self._session.patch(path, json=body, headers=_HEADERS) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    async def post(self, _number: int) -> None:
        async with self._session.post(f"{self._url}/v1/nodes", json={"driver": "fake-hardware"}, headers=_HEADERS) as answer:
            assert answer.status == 201, await answer.text()
            await answer.read()


async def fill(client: Client, nodes: int) -> list[str]:
    """Create nodes, and return the UUIDs of all there are in the first pages."""
    limit = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        async with limit:
            await client.post(number)

    await asyncio.gather(*(one(number) for number in range(nodes)))
    return [node["uuid"] for node in json.loads(await client.get("/v1/nodes?fields=uuid"))["nodes"]]


async def rounds(client: Client, pid: int, scale: int) -> list[Figure]:
    """Every kind of request, alone and in company."""
    found = [await measure("get", client.show, requests=1000 * scale, clients=clients, pid=pid) for clients in (1, 16, 64)]
    found.append(await measure("list 100", client.listing("?limit=100"), requests=100 * scale, clients=1, pid=pid))
    found.append(await measure("list 1000", client.listing(""), requests=50 * scale, clients=1, pid=pid))
    found.append(await measure("list 1000 detail", client.listing("?detail=true"), requests=20 * scale, clients=1, pid=pid))
    for clients in (1, 16):
        found.append(await measure("patch", client.patch, requests=100 * scale, clients=clients, pid=pid))
        found.append(await measure("post", client.post, requests=100 * scale, clients=clients, pid=pid))
    return found


def show(title: str, figures: list[Figure]) -> None:
    print(f"{title}\n{'request':18} {'clients':>7} {'CPU ms':>9} {'p50 ms':>9} {'p99 ms':>9}")
    for f in figures:
        print(f"{f.what:18} {f.clients:7} {f.cpu_ms:9.3f} {f.p50_ms:9.2f} {f.p99_ms:9.2f}")


async def run(options: argparse.Namespace) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        with tempfile.TemporaryDirectory() as folder:
            async with Daemon(Path(folder), {"log.level": "warning"}) as daemon:
                await daemon.start()
                client = Client(session, daemon.url, [])
                client._uuids = await fill(client, options.nodes)
                await measure("warm", client.listing("?detail=true"), requests=3, clients=1, pid=daemon.pid)
                own = await rounds(client, daemon.pid, scale=10)
        show(f"metald, {options.nodes} nodes", own)
        if options.beside:
            other = Client(session, options.beside, [])
            other._uuids = await fill(other, options.beside_nodes)
            figures = await rounds(other, options.beside_pid, scale=1)
            show(f"{options.beside}", figures)
            for mine, theirs in zip(own, figures, strict=True):
                print(f"{mine.what:18} {mine.clients:7} {theirs.cpu_ms / max(mine.cpu_ms, 1e-6):8.0f} times less CPU")
    if options.json:
        Path(options.json).write_text(json.dumps([f._asdict() for f in own]))
    missed = [f"{f.what} at {f.clients} clients: {f.cpu_ms:.2f} ms of CPU" for f in own if f.cpu_ms > BARS_MS.get(f.what, 1e9)]
    for line in missed:
        print("MISSED:", line)
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--json", default="")
    parser.add_argument("--beside", default="", help="URL of another server to ask the same")
    parser.add_argument("--beside-pid", type=int, default=0, help="its process")
    parser.add_argument("--beside-nodes", type=int, default=0, help="how many nodes to add there first")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
