"""Writes small things to nodes that nothing else happens to, as fast as it can, and proves that what was acknowledged is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from lab.matrix.fleet import Fleet
from tests.support.daemon import Refused


class Notes:
    """See the module.

    Args:
        fleet: how to reach the daemon.
        nodes: names of the nodes, by UUID.
    """

    def __init__(self, fleet: Fleet, nodes: Mapping[str, str]) -> None:
        self._fleet = fleet
        self.nodes = dict(nodes)
        self._sent = dict.fromkeys(nodes, 0)
        self._kept = dict.fromkeys(nodes, 0)
        self.written = 0

    async def write(self, uuid: str) -> None:
        """Write to one node, until cancelled."""
        while True:
            await self._fleet.alive.wait()
            self._sent[uuid] += 1
            number = self._sent[uuid]
            try:
                await self._fleet.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "add", "path": "/extra/note", "value": number}])
            except (Refused, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.1)
                continue
            self._kept[uuid] = number
            self.written += 1

    async def check(self) -> list[str]:
        """Which acknowledged notes are gone. To be asked while nobody writes, or while what is written only grows."""
        wrong = []
        for uuid, name in self.nodes.items():
            kept = self._kept[uuid]
            node = await self._fleet.ask("GET", f"/v1/nodes/{uuid}")
            if not kept <= node["extra"].get("note", 0) <= self._sent[uuid]:
                wrong.append(f"{name} has note {node['extra'].get('note')}; {kept} was acknowledged")
        return wrong
