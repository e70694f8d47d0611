"""Watchers of a daemon's events in a process of their own: one reads all of them, the others take what comes.

python -m benchmarks.parts.watchers ADDRESS NUMBER ACCEPTED PATH: prints `ready` when all follow, and what they got, as JSON, once its
input ends and a line of it says up to which event there is something to wait for. ACCEPTED is what all send as `Accept-Encoding`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp

VERSION = {"X-OpenStack-Ironic-API-Version": "1.115"}


class Got(NamedTuple):
    """What watchers got."""

    coding: str
    """How it was coded; empty for plain bytes."""
    bytes: int
    """What all of them got together, from the socket."""
    least: int
    """What the one with the fewest bytes got."""
    numbers: list[int]
    """Of the events, as the one that reads them has them."""


class _Drain(asyncio.Protocol):
    """One watcher: asks, and counts what comes."""

    def __init__(self, request: bytes, opened: asyncio.Semaphore) -> None:
        self._request = request
        self._opened = opened
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.got:
            self._opened.release()
        self.got += len(data)


async def _read(answer: aiohttp.ClientResponse, numbers: list[int], last: asyncio.Future[int]) -> None:
    """Read events until the last one that is wanted."""
    async for line in answer.content:
        if line.startswith(b"data: "):
            numbers.append(json.loads(line[6:])["seq"])
        if last.done() and numbers and numbers[-1] >= last.result():
            return


async def _watch(address: str, number: int, accepted: str, path: str) -> None:
    host, _, port = address.rpartition(":")
    headers = {**VERSION, "Accept-Encoding": accepted}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n".encode()
    opened = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    numbers: list[int] = []
    last: asyncio.Future[int] = loop.create_future()
    made = [await loop.create_connection(lambda: _Drain(request, opened), host, int(port)) for _ in range(number - 1)]
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://{address}{path}", headers=headers) as answer:
        reading = asyncio.create_task(_read(answer, numbers, last))
        for _ in made:
            await opened.acquire()
        print("ready", flush=True)
        last.set_result(int(await asyncio.to_thread(sys.stdin.readline)))
        async with asyncio.timeout(60):
            await reading
        taken = [protocol.got for _, protocol in made]
        coding = answer.headers.get("Content-Encoding", "")
    json.dump(Got(coding, sum(taken), min(taken, default=0), numbers), sys.stdout)
    for transport, _ in made:
        transport.close()


@contextlib.asynccontextmanager
async def watching(url: str, number: int, accepted: str, path: str = "/v1/events/stream") -> AsyncIterator[Callable[[int], Awaitable[Got]]]:
    """Have so many watchers follow meanwhile. What is given ends them, when they have the event of that number, and tells what they got.

    Raises:
        RuntimeError: they could not follow, so nothing was measured.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.watchers", url.removeprefix("http://"), str(number), accepted, path),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the watchers could not follow")

    async def end(last: int) -> Got:
        output, _ = await process.communicate(b"%d\n" % last)
        return Got(*json.loads(output))

    try:
        yield end
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(_watch(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
