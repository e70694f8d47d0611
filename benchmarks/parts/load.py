"""The requests whose cost is measured, and how: CPU per request, and how long they take alone and in company.

A request that is not answered as it should counts as failed, so that a server which drops connections shows it and the
measurement goes on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp

from benchmarks.parts.process import cpu_ms
from tests.support.daemon import MICROVERSION

HEADERS = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
Send = Callable[[int], Awaitable[None]]


class Figure(NamedTuple):
    """One kind of request from some clients at once. CPU is the server's, per request that was answered."""

    what: str
    clients: int
    requests: int
    failed: int
    cpu_ms: float
    p50_ms: float
    p99_ms: float


class Unanswered(Exception):
    """The server answered something else, or nothing."""


async def measure(what: str, send: Send, *, requests: int, clients: int, pid: int) -> Figure:
    """Send requests from some clients at once."""
    took: list[float] = []
    failed = 0
    numbers = iter(range(requests))

    async def client() -> None:
        nonlocal failed
        for number in numbers:
            begun = time.perf_counter()
            try:
                await send(number)
            except (Unanswered, aiohttp.ClientError, TimeoutError):
                failed += 1
            else:
                took.append(time.perf_counter() - begun)

    before = cpu_ms(pid)
    await asyncio.gather(*(client() for _ in range(clients)))
    used = cpu_ms(pid) - before
    took.sort()
    if not took:
        raise SystemExit(f"{what}: not one of {requests} requests was answered")
    p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
    return Figure(what, clients, requests, failed, used / len(took), took[len(took) // 2] * 1000, p99 * 1000)


class Client:
    """Asks a server that speaks the API.

    Args:
        url: where it is.
        uuids: the nodes that single requests go to, in turn.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, uuids: list[str]) -> None:
        self._session = session
        self.url = url
        self.uuids = uuids

    async def ask(self, method: str, path: str, body: object = None, expected: int = 200) -> bytes:
        """One request.

        Raises:
            Unanswered: another status came.
        """
        async with self._session.request(method, f"{self.url}{path}", json=body, headers=HEADERS) as answer:
            read = await answer.read()
            if answer.status != expected:
                raise Unanswered(f"{method} {path}: {answer.status} {read[:200]!r}")
            return read

    async def show(self, number: int) -> None:
        await self.ask("GET", f"/v1/nodes/{self.uuids[number % len(self.uuids)]}")

    def listing(self, query: str) -> Send:
        async def send(_number: int) -> None:
            await self.ask("GET", f"/v1/nodes{query}")

        return send

    async def pages(self, _number: int) -> None:
        """Every node, a thousand at a time."""
        path = "/v1/nodes?limit=1000"
        while path:
            following = json.loads(await self.ask("GET", path)).get("next") or ""
            path = following[following.find("/v1/") :] if following else ""

    async def patch(self, number: int) -> None:
        body = [{"op": "add", "path": "/extra/n", "value": number}]
        await self.ask("PATCH", f"/v1/nodes/{self.uuids[number % len(self.uuids)]}", body)

    async def post(self, _number: int) -> None:
        await self.ask("POST", "/v1/nodes", {"driver": "fake-hardware"}, expected=201)

    async def fill(self, nodes: int, at_once: int = 32) -> None:
        """Create nodes."""
        limit = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with limit:
                await self.post(number)

        await asyncio.gather(*(one(number) for number in range(nodes)))

    async def learn(self) -> None:
        """Take the first thousand nodes there are for single requests."""
        self.uuids = [node["uuid"] for node in json.loads(await self.ask("GET", "/v1/nodes?fields=uuid&limit=1000"))["nodes"]]


async def rounds(client: Client, pid: int, scale: int) -> list[Figure]:
    """Every kind of request, alone and in company.

    Args:
        scale: how many times the least number of requests is sent of each.
    """
    kinds: tuple[tuple[str, Send, int, tuple[int, ...]], ...] = (
        ("get", client.show, 150, (1, 16, 64)),
        ("list 100", client.listing("?limit=100"), 40, (1, 16, 64)),
        ("list 1000", client.listing("?limit=1000"), 20, (1, 16)),
        ("list 1000 detail", client.listing("?limit=1000&detail=true"), 6, (1, 4)),
        ("all in pages", client.pages, 3, (1,)),
        ("patch", client.patch, 40, (1, 16, 64)),
        ("post", client.post, 40, (1, 16, 64)),
    )
    return [
        await measure(what, send, requests=max(count * scale, clients), clients=clients, pid=pid)
        for what, send, count, company in kinds
        for clients in company
    ]


def show(title: str, figures: list[Figure]) -> None:
    """Print a table."""
    print(f"{title}\n{'request':18} {'clients':>7} {'CPU ms':>9} {'p50 ms':>9} {'p99 ms':>9} {'failed':>7}")
    for f in figures:
        print(f"{f.what:18} {f.clients:7} {f.cpu_ms:9.3f} {f.p50_ms:9.2f} {f.p99_ms:9.2f} {f.failed:7}", flush=True)
