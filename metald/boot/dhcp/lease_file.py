"""Leases: tells the fleet when dnsmasq gave a machine an address, from its lease file.

Rules: what the file holds at the start is no news. A machine that boots a ramdisk is told of each time it asks, for that
is how far its boot has come; others when their address is another, for they renew it day and night. dnsmasq writes the
file in place: a line that is missing for a moment is not forgotten before its lease has ended.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import NamedTuple

from metald.boot import credentials
from metald.boot.directory import BootDirectory
from metald.model import now

_log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at whether the file has changed."""


class Lease(NamedTuple):
    """What one machine has."""

    address: str
    ends: int
    """Seconds since 1970; 0 is never."""


class LeaseWatch:
    """Follows one lease file.

    Args:
        path: the file; it need not exist yet.
        directory: knows whose MAC addresses they are, and is told.
    """

    def __init__(self, path: Path, directory: BootDirectory) -> None:
        self._path = path
        self._directory = directory
        self._known: dict[str, Lease] | None = None
        self._seen: tuple[int, int] | None = None

    async def run(self) -> None:
        """Look now and then, for ever."""
        said = ""
        while True:
            try:
                await self.look()
                said = ""
            except OSError as error:
                text = f"dhcp.dnsmasq_leases: {self._path} cannot be read: {error}; trying again"
                _log.log(logging.DEBUG if text == said else logging.WARNING, "%s", text)
                said = text
            await asyncio.sleep(_LOOK)

    async def look(self) -> None:
        """Tell what is new.

        Raises:
            OSError: the file cannot be read.
        """
        changed = await asyncio.to_thread(_changed, self._path)
        if self._known is not None and changed == self._seen:
            return
        found = await asyncio.to_thread(read, self._path)
        self._seen = changed
        if self._known is None:
            self._known = found
            return
        for mac, lease in found.items():
            before = self._known.get(mac)
            if before != lease:
                self._tell(mac, lease, before)
        moment = now().timestamp()
        kept = {mac: lease for mac, lease in self._known.items() if not lease.ends or lease.ends > moment}
        self._known = {**kept, **found}

    def _tell(self, mac: str, lease: Lease, before: Lease | None) -> None:
        node = self._directory.node_by_mac(mac)
        if node is not None and (before is None or before.address != lease.address or credentials.wants_ramdisk(node)):
            self._directory.seen("node.dhcp", node_uuid=node.uuid, data={"client": lease.address, "mac": mac})


def _changed(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def read(path: Path) -> dict[str, Lease]:
    """MAC address to IPv4 lease from dnsmasq's lease file (expiry, MAC, address, name, client id in each line).

    Raises:
        OSError: the file cannot be read; one that does not exist yet holds no leases.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    fields = (line.split() for line in lines)
    return {
        parts[1].lower(): Lease(parts[2], int(parts[0])) for parts in fields if len(parts) >= 4 and parts[0].isdecimal() and ":" in parts[1]
    }
