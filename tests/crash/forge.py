"""Talks to `launcher.py`: starts daemons that die where a test wants them to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.daemon import Running, Spawn

ROOT = Path(__file__).parents[2]


class _Fork:
    """A daemon that the launcher forked."""

    def __init__(self, pid: int, end: asyncio.Future[int]) -> None:
        self.pid = pid
        self._end = end

    async def wait(self) -> int:
        return await asyncio.shield(self._end)


class Forge:
    """A running launcher. Use `forge()`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._starts: deque[asyncio.Future[_Fork]] = deque()
        self._ends: dict[int, asyncio.Future[int]] = {}

    async def listen(self) -> None:
        """Read what the launcher says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said: dict[str, int] = json.loads(line)
            if "status" in said:
                self._ends.pop(said["pid"]).set_result(said["status"])
            else:
                end = self._ends[said["pid"]] = asyncio.get_running_loop().create_future()
                self._starts.popleft().set_result(_Fork(said["pid"], end))

    def daemon(self, tally: Path, *, at: int = 0, when: str = "before", kind: str = "deploy") -> Spawn:
        """How to start a daemon that dies at boundary `at`; 0 never."""

        async def spawn(environment: dict[str, str], log: Path) -> Running:
            order: dict[str, Any] = {
                "environment": environment,
                "log": str(log),
                "tally": str(tally),
                "at": at,
                "when": when,
                "kind": kind,
            }
            start: asyncio.Future[_Fork] = asyncio.get_running_loop().create_future()
            self._starts.append(start)
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            async with asyncio.timeout(60):
                return await start

        return spawn


@contextlib.asynccontextmanager
async def forge() -> AsyncIterator[Forge]:
    """A launcher for the time of the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("launcher.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    made = Forge(process)
    listening = asyncio.ensure_future(made.listen())
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening
