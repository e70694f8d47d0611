"""What the programs of the lab have in common: how they end, and what they keep and show when something is not as it should be.

Rule: nothing is left behind, however they end. A signal cancels the work, which takes down what it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from lab.daemon import Daemon
from lab.network import BridgedNetwork
from lab.prepare import BUILD
from lab.process import LabError
from lab.rack import Lab
from lab.screen import Screen

_LOG_LINES = 60


def until_done(work: Coroutine[Any, Any, None]) -> None:
    """Run the work of a program.

    Raises:
        asyncio.CancelledError: a signal ended it.
    """
    asyncio.run(_until_signal(work))


def run_program(name: str, out: Screen, work: Coroutine[Any, Any, None]) -> int:
    """Run the work of a program to its exit code: 0 when all of it was as it should be, 1 when it was not, 130 after a signal."""
    try:
        until_done(work)
    except asyncio.CancelledError:
        out.plain("stopped; nothing is left behind")
        return 130
    except LabError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    return 0


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


@contextlib.asynccontextmanager
async def limit(seconds: float, what: str) -> AsyncIterator[None]:
    """Say `what` has not come true when the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise LabError(f"{what} within {seconds:g} s.") from error


@contextlib.contextmanager
def told(out: Screen, lab: Lab, daemon: Daemon) -> Iterator[None]:
    """When the body fails, say so, and show and keep what helps to find out why."""
    try:
        yield
    except Exception as error:
        out.plain(f"\nFAILED: {error}")
        _show_logs(out, lab, daemon)
        raise


def _show_logs(out: Screen, lab: Lab, daemon: Daemon) -> None:
    kept = BUILD / "demo" / "failed"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    logs = [daemon.log] + [log for one in lab.machines for log in (one.serial_log, one.machine.qemu_log)]
    if isinstance(lab.network, BridgedNetwork):
        logs.append(lab.network.log)
    for log in logs:
        if not log.exists():
            continue
        shutil.copyfile(log, kept / f"{log.parent.name}-{log.name}")
        lines = log.read_text(errors="replace").splitlines()
        out.plain(f"\n---- {log.name} of {log.parent.name}, the last {min(_LOG_LINES, len(lines))} of {len(lines)} lines")
        out.plain("\n".join(lines[-_LOG_LINES:]))
    out.plain(f"\nThe whole logs are in {kept}.")
