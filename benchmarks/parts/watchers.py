"""Watchers of a daemon's events in a process of their own, which only take what comes.

python -m benchmarks.parts.watchers ADDRESS NUMBER PATH: prints `ready` when all follow, and the bytes they got once its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path


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


async def _watch(address: str, number: int, path: str) -> None:
    host, _, port = address.rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nX-OpenStack-Ironic-API-Version: 1.115\r\n\r\n".encode()
    opened = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Drain(request, opened), host, int(port)) for _ in range(number)]
    for _ in made:
        await opened.acquire()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(sum(protocol.got for _, protocol in made))
    for transport, _ in made:
        transport.close()


@contextlib.asynccontextmanager
async def watching(url: str, number: int, path: str = "/v1/events/stream") -> AsyncIterator[None]:
    """Have so many watchers follow meanwhile.

    Raises:
        RuntimeError: they got nothing, so nothing was measured.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.watchers", url.removeprefix("http://"), str(number), path),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the watchers could not follow")
    try:
        yield
    finally:
        output, _ = await process.communicate(b"")
    if int(output) < number * 100_000:
        raise RuntimeError(f"{number} watchers got {int(output)} bytes only")


if __name__ == "__main__":
    asyncio.run(_watch(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
