"""A machine's serial line, which stays when the machine is off or starts anew: TCP for the BMC, relayed to QEMU."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

_CHUNK = 4096


class SerialLine:
    """The cable between machine and BMC: one QEMU on one end, whoever connects on the other.

    What the machine says while nobody is connected is lost here; QEMU itself keeps the log.
    """

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._listeners: set[asyncio.StreamWriter] = set()
        self._machine: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on a free port of the loopback address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def plug(self, path: Path) -> None:
        """Connect to the serial socket of a QEMU that has just been started."""
        await self.unplug()
        reader, self._machine = await asyncio.open_unix_connection(path)
        self._pump = asyncio.create_task(self._listen(reader))

    async def unplug(self) -> None:
        """Let go of the machine."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    async def close(self) -> None:
        """Let go of everybody."""
        await self.unplug()
        if self._server is not None:
            self._server.close()
            for listener in tuple(self._listeners):
                listener.close()
            await self._server.wait_closed()
            self._server = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                for listener in self._listeners:
                    listener.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listeners.add(writer)
        try:
            while data := await reader.read(_CHUNK):
                if self._machine is not None:
                    self._machine.write(data)
        except ConnectionError:
            pass
        finally:
            self._listeners.discard(writer)
            writer.close()
