"""A metald of the benchmark's own: filled with nodes, started again, stormed."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from pathlib import Path

import aiohttp

from benchmarks.parts.load import HEADERS, Client
from benchmarks.parts.process import rss_mib
from tests.support.daemon import Daemon


async def first_answer(daemon: Daemon) -> tuple[float, float]:
    """Start a daemon over the state it has.

    Returns:
        Seconds from the start of its process to the first list of nodes, and its resident MiB then.
    """
    host, _, port = daemon.url.removeprefix("http://").partition(":")
    begun = time.perf_counter()
    starting = asyncio.create_task(daemon.start())
    try:
        while True:
            if starting.done():
                starting.result()
            try:
                status = await asyncio.to_thread(_list_one, host, int(port))
            except OSError:
                await asyncio.sleep(0.005)
                continue
            if status == 200:
                took = time.perf_counter() - begun
                break
            await asyncio.sleep(0.005)
    finally:
        await starting
    return took, rss_mib(daemon.pid)


def _list_one(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/v1/nodes?limit=1", headers=HEADERS)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


async def readers(daemon: Daemon, uuids: list[str], clients: int, storm: Client) -> tuple[list[float], float]:
    """Deploy every node at once while clients in a process of their own read single nodes.

    Returns:
        How long each read of that time took, in sorted milliseconds, and the seconds until the last node was active.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.own", daemon.url, str(clients)),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(uuids).encode() + b"\n")
    await asyncio.sleep(1.0)  # the readers are at it before the storm begins
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for uuid in uuids:
            group.create_task(storm.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": "active"}, expected=202))
    while json.loads(await storm.ask("GET", "/v1/nodes?provision_state=deploying&limit=1"))["nodes"]:
        await asyncio.sleep(0.1)
    wall = time.perf_counter() - begun
    output, _ = await process.communicate(b"\n")
    return sorted(1000 * seconds for at, seconds in json.loads(output) if begun <= at <= begun + wall), wall


async def _read(url: str, clients: int) -> None:
    uuids = json.loads(sys.stdin.readline())
    took: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_reader(sys.stdin, told.set)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Client(session, url, uuids)

        async def one(start: int) -> None:
            number = start
            while not told.is_set():
                begun = time.perf_counter()
                await client.show(number)
                # perf_counter is the same clock in every process on Linux
                took.append((begun, time.perf_counter() - begun))
                number += clients

        await asyncio.gather(*(one(number) for number in range(clients)))
    loop.remove_reader(sys.stdin)
    json.dump(took, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_read(sys.argv[1], int(sys.argv[2])))
