"""QEMU's control socket: commands in, events out, one JSON object a line (QEMU Machine Protocol)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from lab.process import LabError

_DEADLINE = 30.0


class Qmp:
    """A connection to one QEMU process.

    Attributes:
        shutdown_reason: why the guest ended (`guest-reset`, `guest-shutdown`, `host-signal` ...), once it did.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.shutdown_reason = ""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: Path, process: asyncio.subprocess.Process) -> Qmp:
        """Connect to a process that has just been started.

        Raises:
            LabError: it ended, or does not listen in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DEADLINE
        while True:
            try:
                self = cls(*await asyncio.open_unix_connection(path))
                await self._reader.readline()
                await self.execute("qmp_capabilities")
            except (FileNotFoundError, ConnectionError) as error:
                if process.returncode is not None or loop.time() > deadline:
                    raise LabError(f"QEMU does not listen on {path} (exit code {process.returncode}).") from error
                await asyncio.sleep(0.02)
            else:
                return self

    async def execute(self, command: str) -> dict[str, Any]:
        """Run a command without arguments and return its answer. Only before `watch`.

        Raises:
            LabError: QEMU refuses it or hangs up.
        """
        await self.send(command)
        async with asyncio.timeout(_DEADLINE):
            while line := await self._reader.readline():
                message: dict[str, Any] = json.loads(line)
                if "error" in message:
                    raise LabError(f"QEMU refuses {command}: {message['error']}")
                if "return" in message:
                    return message
        raise LabError(f"QEMU hung up at {command}.")

    async def send(self, command: str) -> None:
        """Send a command whose answer nobody awaits; a process that is gone takes none."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(json.dumps({"execute": command}).encode() + b"\n")
            await self._writer.drain()

    async def watch(self) -> None:
        """Read events until QEMU hangs up."""
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    self.shutdown_reason = message["data"].get("reason", "")

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
