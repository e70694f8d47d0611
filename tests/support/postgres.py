"""A private PostgreSQL from Debian's packages: own directory, own port, own user; gone when the tests end.

Each pytest-xdist worker has its own server; each test gets a fresh database. fsync stays on: durability is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def available() -> bool:
    """Whether this machine has a PostgreSQL server."""
    return _binaries() is not None


class PrivatePostgres:
    """One server. PostgreSQL refuses to run as root, so as root it runs as `postgres` (or `nobody`)."""

    def __init__(self) -> None:
        binaries = _binaries()
        assert binaries is not None
        self._bin = binaries
        self._dir = Path(tempfile.mkdtemp(prefix="metald-pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            name = "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
            entry = pwd.getpwnam(name)
            os.chown(self._dir, entry.pw_uid, entry.pw_gid)
            self._as = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def create(self) -> None:
        """Make the cluster."""
        arguments = [str(self._bin / "initdb"), "-D", str(self._dir / "data"), "-U", "metald", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([*arguments, "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)  # type: ignore[call-overload]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._dir),
            "shared_buffers": "32MB",
            "max_connections": "40",
            "fsync": "on",
        }
        flags = [flag for key, value in options.items() for flag in ("-c", f"{key}={value}")]
        with (self._dir / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._dir / "data"), "-p", str(self.port), *flags],
                stdout=log, stderr=log, cwd="/", **self._as,  # type: ignore[call-overload]
            )  # fmt: skip
        deadline = time.monotonic() + 30
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self._dir), "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._dir / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGQUIT: the server ends at once, without a checkpoint, as in a crash, and takes its children along."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def freeze(self) -> None:
        """Stop all its processes in their tracks: connections stay open and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def run(self, sql: str, database: str = "postgres") -> None:
        """Run one statement, outside of a transaction."""

        async def execute() -> None:
            connection = await asyncpg.connect(host=str(self._dir), port=self.port, user="metald", database=database)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        asyncio.run(execute())

    def fresh_database(self) -> str:
        """The name of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        subprocess.run([str(self._bin / "createdb"), "-h", str(self._dir), "-p", str(self.port), "-U", "metald", name], check=True)
        return name

    def url(self, database: str, *, unix: bool = False) -> str:
        """What a user would set as `store.url`."""
        if unix:
            return f"postgresql://metald@/{database}?host={self._dir}&port={self.port}"
        return f"postgresql://metald:unused@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        """End the server and leave nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        shutil.rmtree(self._dir)


def private_postgres() -> Iterator[PrivatePostgres]:
    """Body of a session fixture."""
    server = PrivatePostgres()
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()
