"""Many deployments at once through the API, and what reads feel like meanwhile: the parts that do it.

The reader lists all nodes without a pause from a process of its own. Who is refused because the server is full asks again
until it is taken, as Ironic's clients have to.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.parts.load import HEADERS
from benchmarks.parts.process import cpu_ms, rss_mib

AT_ONCE = 64
_FULL = (409, 503)


class Figure(NamedTuple):
    """What deploying so many nodes took."""

    nodes: int
    delay: float
    wall: float
    accepted: float
    refused: int
    cpu_ms: float
    rss_mib: float
    reads: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failed: int


def read_until_told(address: str) -> None:
    """The reader's process: list the nodes again and again, and print how long each took once the input ends."""
    took: list[tuple[float, float]] = []
    connection = http.client.HTTPConnection(address, timeout=120)
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.perf_counter()
        try:
            connection.request("GET", "/v1/nodes", headers=HEADERS)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        took.append((begun, time.perf_counter() - begun))
        if answer.status != 200:
            raise SystemExit(f"GET /v1/nodes answered {answer.status}")
    json.dump(took, sys.stdout)


class Storm:
    """Asks many things at once, and again what was refused because the server is full."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.refused = 0

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request until it is taken; its decoded answer."""
        while True:
            try:
                async with self._session.request(method, self._url + path, json=body) as answer:
                    text = await answer.text()
            except aiohttp.ClientConnectionError:
                answer = None
            if answer is None or answer.status in _FULL:
                self.refused += 1
                await asyncio.sleep(0.2)
                continue
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:300]}")
            return json.loads(text) if text else None

    async def each(self, uuids: list[str], target: str) -> None:
        """Ask every node for a provision state."""
        await asyncio.gather(*(self.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target}) for uuid in uuids))

    async def states(self) -> dict[str, int]:
        """How many nodes are in each provision state."""
        counted: dict[str, int] = {}
        path = "/v1/nodes?fields=uuid,provision_state&limit=1000"
        while path:
            page = await self.ask("GET", path)
            for node in page["nodes"]:
                counted[node["provision_state"]] = counted.get(node["provision_state"], 0) + 1
            following = page.get("next") or ""
            path = following[following.find("/v1/") :] if following else ""
        return counted

    async def until(self, count: int, *states: str, pause: float = 0.1) -> dict[str, int]:
        """Wait until so many nodes are in one of the states."""
        while True:
            found = await self.states()
            if sum(found.get(state, 0) for state in states) >= count:
                return found
            await asyncio.sleep(pause)

    async def available(self, count: int) -> list[str]:
        """Enroll nodes and make them available."""
        body = {"driver": "fake-hardware"}
        made = await asyncio.gather(*(self.ask("POST", "/v1/nodes", {**body, "name": f"bench-{n}"}) for n in range(count)))
        uuids = [node["uuid"] for node in made]
        for verb, state in (("manage", "manageable"), ("provide", "available")):
            await self.each(uuids, verb)
            await self.until(count, state)
        return uuids


def session() -> aiohttp.ClientSession:
    """A session for a storm."""
    timeout = aiohttp.ClientTimeout(total=900)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE), headers=HEADERS, timeout=timeout)


@contextlib.asynccontextmanager
async def reading(url: str) -> AsyncIterator[Callable[[], Awaitable[list[tuple[float, float]]]]]:
    """Lists all nodes from a process of its own meanwhile. What is given ends it and returns when each list began and how long it took."""
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.deploy", url.removeprefix("http://")),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def end() -> list[tuple[float, float]]:
        output, _ = await reader.communicate(b"\n")
        found: list[tuple[float, float]] = json.loads(output)
        return found

    await asyncio.sleep(0.5)  # the reader is at it before the storm begins
    yield end


async def nobody() -> list[tuple[float, float]]:
    """Nobody reads meanwhile."""
    return []


async def deploy(
    storm: Storm,
    pid: int,
    uuids: list[str],
    *,
    reads: Callable[[], Awaitable[list[tuple[float, float]]]] = nobody,
    delay: float = 0.0,
    pause: float = 0.1,
) -> Figure:
    """Deploy available nodes at once and wait until each is active or failed.

    Args:
        pid: the server's process.
        reads: ends the reader, see `reading`.
        delay: seconds of simulated hardware time, to be told.
        pause: seconds between two looks at all states.
    """
    cpu, begun = cpu_ms(pid), time.perf_counter()
    storm.refused = 0
    await storm.each(uuids, "active")
    accepted = time.perf_counter() - begun
    states = await storm.until(len(uuids), "active", "deploy failed", pause=pause)
    wall = time.perf_counter() - begun
    cpu = cpu_ms(pid) - cpu
    # perf_counter is the same clock in every process on Linux
    took = sorted(1000 * seconds for at, seconds in await reads() if begun <= at <= begun + wall) or [0.0]
    return Figure(
        nodes=len(uuids),
        delay=delay,
        wall=wall,
        accepted=accepted,
        refused=storm.refused,
        cpu_ms=cpu / len(uuids),
        rss_mib=rss_mib(pid),
        reads=len(took),
        p50_ms=took[len(took) // 2],
        p99_ms=took[int(len(took) * 0.99)],
        worst_ms=took[-1],
        failed=len(uuids) - states.get("active", 0),
    )


def show(figures: list[Figure], titles: bool = True) -> None:
    """Print a table."""
    names = (
        "nodes",
        "delay s",
        "accepted s",
        "refused",
        "all active s",
        "per s",
        "CPU ms each",
        "RSS MiB",
        "GETs",
        "p50 ms",
        "p99 ms",
        "worst",
    )
    if titles:
        print(" ".join(f"{name:>12}" for name in names))
    for f in figures:
        row = (
            f.nodes,
            f.delay,
            f.accepted,
            f.refused,
            f.wall,
            f.nodes / f.wall,
            f.cpu_ms,
            f.rss_mib,
            f.reads,
            f.p50_ms,
            f.p99_ms,
            f.worst_ms,
        )
        print(" ".join(f"{value:>12}" if isinstance(value, int) else f"{value:>12.2f}" for value in row), flush=True)


if __name__ == "__main__":
    read_until_told(sys.argv[1])
