"""A fleet in memory for the boot servers' tests, and what they told it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metald.boot import credentials
from metald.config import Boot, Settings
from metald.model import Node, Port
from metald.statemachine.sightings import sighting
from tests.support import events

MAC = "52:54:00:12:34:56"


class Fleet:
    """A BootDirectory."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._ports: list[Port] = []
        self.events: list[tuple[str, str | None, dict[str, Any]]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.taken: dict[str, str] = {}
        self.told = asyncio.Event()

    def add(self, *macs: str, pxe_enabled: bool = True, **fields: Any) -> Node:
        node = Node(driver="ipmi", **fields)
        self.nodes[node.uuid] = node
        self._ports += [Port(node_uuid=node.uuid, address=mac, pxe_enabled=pxe_enabled) for mac in macs]
        return node

    def change(self, node: Node, **fields: Any) -> Node:
        self.nodes[node.uuid] = node.changed(**fields)
        return self.nodes[node.uuid]

    def boot(self, node: Node, purpose: str = "deploy") -> Node:
        """Give the node the credentials of a boot."""
        self.taken.pop(node.uuid, None)
        return self.change(node, driver_internal_info=credentials.new_credentials(purpose))

    def node_by_mac(self, mac: str) -> Node | None:
        return next((self.nodes[port.node_uuid] for port in self._ports if port.address == mac), None)

    def node(self, uuid: str) -> Node | None:
        return self.nodes.get(uuid)

    def ports(self, node_uuid: str) -> list[Port]:
        return [port for port in self._ports if port.node_uuid == node_uuid]

    def seen(self, kind: str, *, node_uuid: str | None, data: Mapping[str, Any]) -> None:
        events.told(sighting(kind, node_uuid, data))
        self.events.append((kind, node_uuid, dict(data)))
        self.told.set()

    async def ramdisk_called(self, node_uuid: str, facts: Mapping[str, Any]) -> None:
        self.calls.append((node_uuid, dict(facts)))

    async def credentials_taken(self, node_uuid: str, address: str) -> str:
        return self.taken.setdefault(node_uuid, address)

    async def event(self, kind: str, file: str | None = None) -> tuple[str | None, dict[str, Any]]:
        """The first event of a kind (about a file), awaited when it has not come yet."""
        async with asyncio.timeout(20):
            while True:
                for seen, node, data in self.events:
                    if seen == kind and (file is None or data.get("file") == file):
                        return node, data
                self.told.clear()
                await self.told.wait()


def boot_settings(folder: Path, **boot: Any) -> Settings:
    """Settings with a ramdisk and loaders below `folder`, and servers on free loopback ports."""
    for name, text in {
        "ramdisk/kernel": b"K" * 10000,
        "ramdisk/initramfs": bytes(range(256)) * 1000,
        "ipxe/undionly.kpxe": b"U" * 3000,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    given = {"http_listen": "127.0.0.1:0", "tftp_listen": "127.0.0.1:0", "ipxe_dir": str(folder / "ipxe")} | boot
    return Settings(state_dir=str(folder), boot=Boot(**given))
