"""A real `metald serve` for the lab's machines, and the real client `baremetal` that talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from lab.process import LabError, spawn, stop

_BIN = Path(sys.executable).parent
_START_DEADLINE = 60.0
_STOP_DEADLINE = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Daemon:
    """The daemon, from ready to stopped, as an async context manager.

    Args:
        directory: for its state and its log.
        settings: environment variables on top of where it keeps its state and listens.
        url: where the settings have it listen; by default a free port of the loopback address is taken.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str], *, url: str = "") -> None:
        port = free_port()
        self.url = url or f"http://127.0.0.1:{port}"
        self.log = directory / "metald.log"
        self._environment = {
            "METALD__STATE_DIR": str(directory / "state"),
            "METALD__API__LISTEN": f"127.0.0.1:{port}",
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def start(self) -> None:
        """Start it, the first time or again over the same state and ports, and return once it is ready.

        Raises:
            LabError: it does not become ready.
        """
        await self._close()
        self._process = await spawn([str(_BIN / "metald"), "serve"], self.log, environment=self._environment)
        headers = {"X-OpenStack-Ironic-API-Version": "latest"}
        self._session = aiohttp.ClientSession(self.url, headers=headers, timeout=aiohttp.ClientTimeout(total=20))
        try:
            await self._until_ready()
        except BaseException:
            await self._close()
            raise

    async def kill(self) -> None:
        """Send SIGKILL, as power failures and the kernel's out-of-memory killer do."""
        assert self._process is not None
        await stop(self._process, grace=0)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def stop(self) -> int:
        """Send SIGTERM and return the exit code.

        Raises:
            LabError: it does not stop.
        """
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_DEADLINE):
                return await self._process.wait()
        except TimeoutError as error:
            raise LabError(f"metald did not stop within {_STOP_DEADLINE:g} s of SIGTERM.") from error

    @property
    def cpu(self) -> float:
        """Processor seconds that the daemon has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory(self) -> int:
        """Bytes of memory that the daemon holds."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def get(self, path: str) -> dict[str, Any]:
        """Read from the API.

        Raises:
            LabError: it answers with an error.
        """
        return await self.call("GET", path)

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Make a request of the API; an answer without a body is an empty object.

        Raises:
            LabError: it answers with an error.
        """
        assert self._session is not None
        async with self._session.request(method, path, json=body) as response:
            if response.status >= 300:
                raise LabError(f"{method} {path}: {response.status} {await response.text()}")
            found: dict[str, Any] = await response.json() if response.content_type == "application/json" else {}
            return found

    async def baremetal(self, *arguments: str, deadline: float = 120.0) -> str:
        """Run the client and return what it said.

        Raises:
            LabError: it failed or took too long; the text is the client's own.
        """
        environment = {**os.environ, "OS_AUTH_TYPE": "none", "OS_ENDPOINT": self.url}
        process = await asyncio.create_subprocess_exec(
            str(_BIN / "baremetal"),
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate()
        except TimeoutError as error:
            raise LabError(f"baremetal {' '.join(arguments[:3])} did not end within {deadline:g} s.") from error
        finally:
            await stop(process, grace=0)
        if process.returncode:
            raise LabError(f"baremetal {' '.join(arguments[:3])}: {err.decode(errors='replace').strip()[-1000:]}")
        return out.decode(errors="replace")

    async def _until_ready(self) -> None:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_DEADLINE
        while True:
            if self._process.returncode is not None or loop.time() > deadline:
                raise LabError(f"metald does not become ready (exit code {self._process.returncode}).")
            with contextlib.suppress(aiohttp.ClientError, LabError):
                await self.get("/readyz")
                return
            await asyncio.sleep(0.05)

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._process is not None:
            await stop(self._process)
