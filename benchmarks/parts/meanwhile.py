"""What a daemon feels like to others while it works: how long reads take, how late its loop is, how much is in flight.

The reader is a process of its own and asks at a modest pace, alternately for one node and for a page of a hundred, so that
its own requests are not what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from benchmarks.parts.load import HEADERS

_PAUSE = 0.05
_LOOK = 0.5
_LAG = re.compile(r'^metald_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)
_NODES = re.compile(r'^metald_nodes\{state="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)
_BUSY = ("deploying", "wait call-back")


class Meanwhile:
    """Looks at a daemon while the block runs; the figures are there after it.

    Args:
        url: of the API.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.in_flight = 0
        """Most deployments that were seen at once."""
        self.lag_p99_ms = 0.0
        """The bound of the bucket that the 99th percentile of the loop's lag is in."""
        self.reads: list[float] = []
        """Milliseconds of each read, sorted."""
        self.refused = 0
        """Reads that were answered with something else than 200."""
        self._reader: asyncio.subprocess.Process
        self._session: aiohttp.ClientSession
        self._before: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=HEADERS, timeout=aiohttp.ClientTimeout(total=120))
        self._reader = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.parts.meanwhile", self._url),
            cwd=Path(__file__).resolve().parent.parent.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._reader.stdout is not None
        await self._reader.stdout.readline()  # it is at it
        self._before = dict(await self._lag())
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        output, _ = await self._reader.communicate(b"\n")
        if kind is None:
            found = json.loads(output)
            self.reads, self.refused = sorted(found["took"]), found["refused"]
            self.lag_p99_ms = self._p99(await self._lag())
        await self._session.close()

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the reads."""
        return self.reads[int(len(self.reads) * 0.99)] if self.reads else float("inf")

    async def _metrics(self) -> str:
        async with self._session.get(f"{self._url}/metrics") as answer:
            return await answer.text()

    async def _lag(self) -> list[tuple[str, float]]:
        return [(bound, float(count)) for bound, count in _LAG.findall(await self._metrics())]

    def _p99(self, after: list[tuple[str, float]]) -> float:
        grown = [(float(bound), count - self._before.get(bound, 0.0)) for bound, count in after]
        return next((1000 * bound for bound, count in grown if count >= 0.99 * grown[-1][1]), float("inf"))

    async def _look(self) -> None:
        while True:
            states = dict(_NODES.findall(await self._metrics()))
            self.in_flight = max(self.in_flight, int(sum(float(states.get(state, 0)) for state in _BUSY)))
            await asyncio.sleep(_LOOK)


async def _read(url: str) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_reader(sys.stdin, told.set)
    took: list[float] = []
    refused = 0
    async with aiohttp.ClientSession(headers=HEADERS, timeout=aiohttp.ClientTimeout(total=120)) as session:
        async with session.get(f"{url}/v1/nodes?limit=1") as answer:
            node = (await answer.json())["nodes"][0]["uuid"]
        paths = (f"/v1/nodes/{node}", "/v1/nodes?limit=100")
        print("ready", flush=True)
        while not told.is_set():
            begun = time.perf_counter()
            async with session.get(url + paths[len(took) % 2]) as answer:
                await answer.read()
            took.append(1000 * (time.perf_counter() - begun))
            refused += answer.status != 200
            await asyncio.sleep(_PAUSE)
    loop.remove_reader(sys.stdin)
    json.dump({"took": took, "refused": refused}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_read(sys.argv[1]))
