"""Child processes that cannot outlive the lab.

Rules: every child dies with this process, even by SIGKILL (the kernel sends it the signal that `setpriv --pdeathsig`
asked for); every child is waited for; what it says on stderr is kept in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_LEASH = ("setpriv", "--pdeathsig", "KILL", "--")
_GRACE = 3.0
_DEADLINE = 60.0


class LabError(Exception):
    """The lab cannot do what it was asked for; the text says why and what to do about it."""


async def spawn(
    argv: Sequence[str], log: Path, *, piped: bool = False, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a child on the leash; its output goes to the end of `log`, or stdout to a pipe when `piped`.

    Args:
        environment: variables on top of this process's own.

    Raises:
        LabError: the program is not installed.
    """
    with log.open("ab") as output:
        try:
            return await asyncio.create_subprocess_exec(
                *_LEASH,
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
        except FileNotFoundError as error:
            raise LabError(f"{error.filename} is not installed; scripts/install-packages installs what the lab needs.") from error


async def stop(process: asyncio.subprocess.Process, *, grace: float = _GRACE) -> None:
    """End a child: SIGTERM, after `grace` seconds SIGKILL; returns when it is gone, which it may be already."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if grace > 0:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await process.wait()
                    return
        process.kill()
    await process.wait()


async def run(*argv: str, stdin: str = "", deadline: float = _DEADLINE) -> str:
    """Run a program to its end and return what it said.

    Raises:
        LabError: it failed, is not installed, or did not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed; scripts/install-packages installs what the lab needs.") from error
    try:
        async with asyncio.timeout(deadline):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError as error:
        raise LabError(f"{' '.join(argv)} did not end within {deadline:g} s.") from error
    finally:
        await stop(process, grace=0)
    if process.returncode:
        raise LabError(f"{' '.join(argv)}: {err.decode(errors='replace').strip() or f'exit code {process.returncode}'}")
    return out.decode(errors="replace")
