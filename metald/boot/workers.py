"""Starts the worker processes of the boot HTTP server, and starts them again.

The listening sockets are made here, one for each worker and address (SO_REUSEPORT: the kernel spreads connections over them), before
root is given up; the workers start after it. A worker that dies leaves its socket behind, so that those who wait there are served by
the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_PAUSE = 1.0
"""Seconds before a worker that died is started again."""
_GRACE = 5.0
_PREFIX = "metald-boot-"
_log = logging.getLogger(__name__)


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that share one address.

    Raises:
        OSError: it cannot be bound, or somebody else has it: sharing is for our own.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[socket.socket] = []
    try:
        with _socket(family) as probe:
            probe.bind((host, port))
        for _ in range(count):
            sock = _socket(family)
            found.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Port 0 means the one that the first was given.
            sock.bind((host, port or (found[0].getsockname()[1] if len(found) > 1 else 0)))
            sock.listen(1024)
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def _socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def make_place() -> Path:
    """The path of the daemon's Unix socket, in a folder of its own that nobody else may enter. `clear` it.

    Folders of daemons that were killed, whose sockets nobody listens at any more, are removed.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if old.lstat().st_uid == os.geteuid() and _is_left(old / "http"):
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=_PREFIX)) / "http"


def clear(path: Path) -> None:
    """Remove what `make_place` made."""
    shutil.rmtree(path.parent, ignore_errors=True)


def _is_left(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a daemon that is busy would be waited for
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


class Workers:
    """Keeps them running.

    Args:
        count: how many.
        sockets: those of each worker.
        given: what every worker is told (see `Worker`).
        died: called with a worker's number when its process has ended.
    """

    def __init__(self, sockets: Sequence[Sequence[socket.socket]], given: dict[str, Any], died: Callable[[str], None]) -> None:
        self._sockets = sockets
        self._given = given
        self._died = died
        self.running: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> None:
        """Run them until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._sockets)):
                group.create_task(self._keep(number), name=f"boot HTTP worker {number}")

    async def _keep(self, number: int) -> None:
        while True:
            code = await self._once(number)
            _log.error("boot HTTP: worker %d ended with status %s; starting it again", number, code)
            self._died(str(number))
            await asyncio.sleep(_PAUSE)

    async def _once(self, number: int) -> int:
        descriptors = [sock.fileno() for sock in self._sockets[number]]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metald.boot.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=descriptors,
            cwd=Path("/"),
        )
        self.running[number] = process
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**self._given, "number": number, "descriptors": descriptors}).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            return await process.wait()
        finally:
            self.running.pop(number, None)
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have a worker stop, by the end of its standard input; by force when it does not."""
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_GRACE):
            await asyncio.shield(process.wait())
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
