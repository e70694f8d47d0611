"""A simulated machine's ramdisk: what runs between metald's kernel line and the power cut.

It does what the real ramdisk's `init` does, in the simulation's process: fetch the keys of this boot, listen for SSH with
exactly that host key, tell metald. The work on disks is done by the real program of `metald/ramdisk/source`, compiled for
this host and run on plain files, so that what metald has written is really written.

Rules:

- Only that program and a few harmless names are run for a client; nothing else of the host can be reached.
- `cut` is synchronous and final, like a power cut: sshd, connections, commands and detached writers are gone when it
  returns.
- Writes are counted by looking at the program's jobs: a write is *started* when a command meets a job that neither runs nor
  is done, and *done* when the job says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh

from metald.sim.faults import MachineCounters, MachineFaults
from metald.sim.wire import Wire

PROGRAM = "metald-ramdisk"
_HARMLESS = frozenset({"true", "sync"})
_RETRY = 1.0


class BootError(Exception):
    """The ramdisk cannot go on; a real one would be tried again for ever."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a machine's ramdisk finds things on this host."""

    program: Path
    """The compiled `metald-ramdisk`."""
    system: Path
    """What stands for /sys."""
    devices: Path
    """What stands for /dev."""


class Ramdisk:
    """One boot of the ramdisk.

    Args:
        site: the machine's files.
        run: an empty directory, which stands for the ramdisk's memory.
        command_line: the kernel's.
        faults: what goes wrong.
        counters: of the machine.
        pause: lets seconds of the machine's time pass.
        died: called when a fault makes the ramdisk die.
        macs: the machine's cards.
    """

    def __init__(
        self,
        site: Site,
        run: Path,
        command_line: str,
        faults: MachineFaults,
        counters: MachineCounters,
        pause: Callable[[float], Awaitable[None]],
        died: Callable[[], None],
        macs: tuple[str, ...],
    ) -> None:
        self.site = site
        self.run_dir = run
        self.words = dict(word.partition("=")[::2] for word in command_line.split() if "=" in word)
        self.port = 0
        self._faults = faults
        self._counters = counters
        self._pause = pause
        self._died = died
        self._macs = macs
        self._wire: Wire | None = None
        self._server: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._children: set[asyncio.subprocess.Process] = set()
        self._commands: set[asyncio.Task[None]] = set()
        self._cut = False

    async def boot(self) -> None:
        """Come up and call metald; returns once metald knows.

        Raises:
            BootError: the kernel line is not one of metald's.
        """
        try:
            own = "{metald.url}/boot/{metald.node}/{metald.token}".replace("{", "{0[").replace("}", "]}").format(self.words)
        except KeyError as error:
            raise BootError(f"the kernel line lacks {error}") from None
        await self._write_words()
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as web:
            keys = json.loads(await self._again(lambda: _fetch(web, f"{own}/keys")))
            if self._faults.sshd_refuses:
                self.port = 1
            else:
                await self._listen(keys)
            said = {"address": "127.0.0.1", "port": self.port, "uptime": 4.2, "boot_mode": "bios", "macs": ",".join(self._macs)}
            await self._again(lambda: _post(web, f"{own}/ready", said))
        self._counters.ready_calls += 1

    async def _again(self, call: Callable[[], Awaitable[bytes]]) -> bytes:
        while True:
            try:
                return await call()
            except (aiohttp.ClientError, OSError, TimeoutError):
                await self._pause(_RETRY)

    async def _write_words(self) -> None:
        url = self.words["metald.url"]
        if self._faults.holds_at is not None or self._faults.dies_at is not None:
            self._wire = Wire(url, self._arrived)
            url = await self._wire.start()
        for name, value in (("url", url), ("node", self.words["metald.node"]), ("token", self.words["metald.token"])):
            (self.run_dir / name).write_text(value)

    def _arrived(self, received: int) -> bool:
        """What the relay asks after each piece: whether to stand still."""
        if self._faults.dies_at is not None and received >= self._faults.dies_at:
            self._faults.dies_at = None
            self._died()
            return True
        if self._faults.holds_at is not None and received >= self._faults.holds_at:
            self._faults.holds_at = None
            self._faults.held.set()
            return True
        return False

    def go_on(self) -> None:
        """Let a network that stands still carry again."""
        if self._wire is not None:
            self._wire.go_on()

    async def _listen(self, keys: dict[str, Any]) -> None:
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: _Door(self._connections),
            server_host_keys=[asyncssh.import_private_key(keys["host_private_key"])],
            authorized_client_keys=asyncssh.import_authorized_keys(keys["authorized_key"]),
            process_factory=self._serve,
            encoding=None,
            allow_scp=False,
            compression_algs=None,
        )
        self._server = server
        self.port = server.get_port()
        if self._cut:
            server.close()

    # -- commands

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run one command for metald; when the connection goes, the command goes, and detached writers stay."""
        task = asyncio.current_task()
        assert task is not None
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        self._counters.commands += 1
        argv = shlex.split(process.command or "")
        if argv and Path(argv[0]).name in _HARMLESS:
            process.exit(0)
            return
        if not argv or Path(argv[0]).name != PROGRAM:
            process.stderr.write(f"{argv[0] if argv else 'a shell'}: not found in the simulated ramdisk\n".encode())
            process.exit(127)
            return
        self._count_write(argv)
        child = await asyncio.create_subprocess_exec(
            self.site.program,
            *argv[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"METALD_RUN": str(self.run_dir), "METALD_SYS": str(self.site.system), "METALD_DEV": str(self.site.devices)},
            start_new_session=True,
        )
        self._children.add(child)
        try:
            if self._cut:
                _kill(child)
            await self._attend(process, child)
        finally:
            _kill(child)
            await child.wait()
            self._children.discard(child)

    async def _attend(self, process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr, send_eof=False)
        gone = asyncio.ensure_future(process.wait_closed())
        said = asyncio.ensure_future(self._all_said(process, child))
        try:
            await asyncio.wait((gone, said), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                process.exit(said.result())
                await gone
        finally:
            gone.cancel()
            said.cancel()
            await asyncio.gather(gone, said, return_exceptions=True)

    async def _all_said(self, process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> int:
        await process.stdout.drain()
        await process.stderr.drain()
        return await child.wait()

    # -- what was written

    def _count_write(self, argv: list[str]) -> None:
        if argv[1:2] != ["image"] or "--job" not in argv:
            return
        job = self.run_dir / "jobs" / Path(argv[argv.index("--job") + 1]).name
        if not _locked(job / "lock") and '"state":"done"' not in _text(job / "state"):
            self._counters.writes_started += 1

    def jobs(self) -> list[dict[str, Any]]:
        """What the program says of each of its jobs."""
        return [json.loads("{" + text + "}") for path in sorted(self.run_dir.glob("jobs/*/state")) if (text := _text(path))]

    def writing(self) -> bool:
        """Whether a writer runs."""
        return any(_locked(lock) for lock in self.run_dir.glob("jobs/*/lock"))

    # -- the end

    def cut(self) -> None:
        """The power is gone."""
        if self._cut:
            return
        self._cut = True
        if self._wire is not None:
            self._wire.cut()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        for child in self._children:
            _kill(child)
        if self.writing():
            self._kill_writers()
        done = [job for job in self.jobs() if job["state"] == "done"]
        self._counters.writes_done += len(done)
        self._counters.bytes_written += sum(job["total"] for job in done)

    async def gone(self) -> None:
        """Wait until nothing of a ramdisk that was cut is left in this process."""
        if self._commands:
            await asyncio.wait(self._commands)
        if self._server is not None:
            await self._server.wait_closed()

    def _kill_writers(self) -> None:
        """Detached writers are known by their environment."""
        mark = f"METALD_RUN={self.run_dir}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)


class _Door(asyncssh.SSHServer):
    """Knows the connections, so that they can be cut."""

    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections
        self._own: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._own = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._own is not None:
            self._connections.discard(self._own)


def _kill(child: asyncio.subprocess.Process) -> None:
    """Not `child.kill()`, which may collect the child before the loop's own watcher does."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


async def _fetch(web: aiohttp.ClientSession, url: str) -> bytes:
    async with web.get(url, raise_for_status=True) as answer:
        return await answer.read()


async def _post(web: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bytes:
    async with web.post(url, json=body, raise_for_status=True) as answer:
        return await answer.read()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _locked(path: Path) -> bool:
    """Whether a process holds the lock file. The program's followers hold it for moments: they are waited out."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
