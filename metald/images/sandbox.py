"""Runs a program that reads what came from outside in a process that can do little else (see `confine.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_CONFINE = Path(__file__).with_name("confine.py")
PIPE = 1 << 20
"""Bytes of a program's output that are kept until somebody reads them."""

ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/local/bin", "LC_ALL": "C", "MALLOC_ARENA_MAX": "3"}
"""All that a program gets of this process's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cage:
    """What a program may use.

    Attributes:
        memory: bytes of address space.
        processor: seconds of processor time.
        file_size: bytes of the largest file that it may write.
        reads: files that it may read, beside programs and libraries.
        writes: files, which must exist, that it may read and write.
    """

    memory: int
    processor: int
    file_size: int = 0
    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()

    def command(self, argv: Sequence[str]) -> list[str]:
        """The whole command line that runs `argv` within these bounds."""
        bounds = {"parent": os.getpid(), "memory": self.memory, "processor": self.processor, "file_size": self.file_size}
        words = [f"{name}={value}" for name, value in bounds.items()]
        words += [f"read={path}" for path in self.reads] + [f"write={path}" for path in self.writes]
        return [sys.executable, "-I", "-S", str(_CONFINE), *words, "--", *argv]


@asynccontextmanager
async def running(argv: Sequence[str], cage: Cage, *, output: bool = False) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; leaving ends it.

    Args:
        output: whether its standard output is a pipe; else it is thrown away.
    """
    process = await asyncio.create_subprocess_exec(
        *cage.command(argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if output else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
        limit=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # not wait(): it does not return while something is left in a pipe that nobody reads
            await process.communicate()
