"""A running TFTP server with its fleet, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

from metald.boot.files import BootFiles
from metald.boot.tftp.server import TftpServer
from tests.support.boot_fleet import Fleet, boot_settings


class Site:
    """A running server and its fleet."""

    def __init__(self, folder: Path, **boot: object) -> None:
        self.fleet = Fleet()
        self.folder = folder
        settings = boot_settings(folder, http_listen="0.0.0.0:6386", **{"tftp_listen": "127.0.0.1:0", "open_ramdisk": True, **boot})
        self.files = BootFiles(self.fleet, settings)
        self.server = TftpServer(self.fleet, self.files, settings)
        self.big = random.Random(1).randbytes((1 << 20) + 77)
        (folder / "ipxe/big.efi").write_bytes(self.big)

    @property
    def address(self) -> tuple[str, int]:
        return self.server.addresses[0]

    async def idle(self) -> None:
        """Until no transfer runs."""
        async with asyncio.timeout(30):
            while self.server.transfers:
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Site]:
        """Serve; in the end no transfer has left a descriptor or a count behind."""
        await self.server.start()
        descriptors = len(os.listdir("/proc/self/fd"))
        yield self
        await self.idle()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert not self.server._per_client
        await self.server.close()
