"""What the boot servers saw of booting machines, told to the fleet: events in batches, ramdisks that called as signals.

Sightings are facts for people and for the boot's diagnosis; losing one in a crash loses no promise. They are gathered and
written together, so that a thousand machines that boot at once cost a few writes. A ramdisk's call is durable before it is
answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from metald.errors import MetaldError
from metald.model import Event, Node, Port
from metald.model.boot import boot_id
from metald.statemachine.engine import Engine
from metald.store.changes import Change
from metald.store.store import Store

_log = logging.getLogger(__name__)

_BATCH = 500
_KEPT = 20_000


def sighting(kind: str, node_uuid: str | None, data: Mapping[str, Any]) -> Event:
    """The event that tells of what a booting machine did; see `BootDirectory.seen`."""
    if node_uuid is None:
        kind = f"boot.{kind.partition('.')[2]}"  # what is told of a node names it
    severity = "ERROR" if data.get("error") else "WARNING" if data.get("warning") else "INFO"
    return Event(type=kind, node_uuid=node_uuid, data=dict(data), severity=severity)


class Sightings:
    """The real BootDirectory (see `boot/directory.py`).

    Args:
        store: the state.
        engine: is told of ramdisks that called.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._seen: deque[Event] = deque(maxlen=_KEPT)
        self._something = asyncio.Event()

    async def run(self) -> None:
        """Write what was seen, for ever."""
        while True:
            await self._something.wait()
            self._something.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what was seen until now."""
        while self._seen:
            batch = [self._seen.popleft() for _ in range(min(_BATCH, len(self._seen)))]
            try:
                await self._store.commit(Change(events=batch))
            except MetaldError as error:
                _log.warning("%d boot sightings could not be written: %s", len(batch), error)

    def node_by_mac(self, mac: str) -> Node | None:
        """See BootDirectory."""
        port = self._store.table(Port).by("address", mac)
        return self.node(port.node_uuid) if port is not None else None

    def node(self, uuid: str) -> Node | None:
        """See BootDirectory."""
        return self._store.table(Node).get(uuid)

    def ports(self, node_uuid: str) -> list[Port]:
        """See BootDirectory."""
        return list(self._store.table(Port).where("node_uuid", node_uuid))

    def seen(self, kind: str, *, node_uuid: str | None, data: Mapping[str, Any]) -> None:
        """See BootDirectory."""
        self._seen.append(sighting(kind, node_uuid, data))
        self._something.set()

    async def ramdisk_called(self, node_uuid: str, facts: Mapping[str, Any]) -> None:
        """See BootDirectory."""

        def change(node: Node) -> dict[str, Any]:
            ramdisk = {**facts, "boot": boot_id(node)}
            if node.driver_internal_info.get("ramdisk") == ramdisk:
                return {}
            seen = {"boot_mode": facts["boot_mode"]} if facts.get("boot_mode") else {}
            return {"driver_internal_info": {**node.driver_internal_info, "ramdisk": ramdisk}, **seen}

        await self._engine.signal(node_uuid, "ramdisk", change, [Event(type="node.ramdisk", node_uuid=node_uuid, data=dict(facts))])

    async def credentials_taken(self, node_uuid: str, address: str) -> str:
        """See BootDirectory."""
        holder = address

        def change(node: Node) -> dict[str, Any]:
            nonlocal holder
            holder = node.driver_internal_info.get("boot_credentials_taken_by") or address
            if node.driver_internal_info.get("boot_credentials_taken_by"):
                return {}
            return {"driver_internal_info": {**node.driver_internal_info, "boot_credentials_taken_by": address}}

        await self._engine.signal(node_uuid, "credentials", change, [])
        return holder


__all__ = ["Sightings", "boot_id"]
