"""A simulated fleet beside what is measured: `metald sim` or its BMCs alone, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from metald.drivers.ipmi.info import BmcInfo
from metald.sim.bmc import addresses

ROOT = Path(__file__).resolve().parent.parent.parent


class Bmcs:
    """BMCs on loopback addresses; `infos` leads to them."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any], base: str) -> None:
        self._process = process
        self.pid = process.pid
        self.infos = [BmcInfo(address, ready["port"], "admin", "secret") for address in addresses(base, ready["count"])]

    async def ask(self, line: str) -> dict[str, Any]:
        """One command of the simulator's control line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def bmcs(count: int, *options: str, base: str = "127.40.0.0") -> AsyncIterator[Bmcs]:
    """BMCs until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metald.sim.bmc", "--count", str(count), "--base", base, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Bmcs(process, json.loads(await process.stdout.readline()), base)
    finally:
        process.stdin.close()
        await process.wait()


class Sim:
    """A running `metald sim`; `until` reads what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def until(self, word: str) -> str:
        """The next line that has `word` in it.

        Raises:
            RuntimeError: it ended before.
        """
        assert self._process.stdout is not None
        said = []
        while line := (await self._process.stdout.readline()).decode():
            said.append(line)
            if word in line:
                return line.strip()
        raise RuntimeError(f"metald sim ended: {''.join(said)}")


@asynccontextmanager
async def sim(*words: str) -> AsyncIterator[Sim]:
    """`metald sim` with these arguments; it is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metald", "sim", *words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
    )
    try:
        yield Sim(process)
    finally:
        if process.returncode is None:
            process.terminate()
        assert process.stdout is not None
        while await process.stdout.read(1 << 16):
            pass
        await process.wait()
