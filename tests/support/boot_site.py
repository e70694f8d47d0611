"""A running boot HTTP server, and the fleet it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.model import Node
from tests.support.boot_fleet import Fleet, boot_settings


class Site:
    """A running server, its fleet, and a client."""

    def __init__(self, folder: Path, **boot: object) -> None:
        self.fleet = Fleet()
        self.folder = folder
        self.settings = boot_settings(folder, **{"open_ramdisk": True, **boot})
        self.files = BootFiles(self.fleet, self.settings, self._image)
        self.images: dict[tuple[str, str], Path] = {}
        self.server = BootHttp(self.fleet, self.files, self.settings)

    def _image(self, node: Node, what: str) -> Path | None:
        return self.images.get((node.uuid, what))

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def own(self, node: Node, what: str, token: str | None = None) -> str:
        return f"{self.base}/boot/{node.uuid}/{token or node.driver_internal_info['boot_token']}/{what}"


async def raw(site: Site, data: bytes) -> bytes:
    """Send bytes as they are; everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer
