"""Which node a network address belongs to, as far as the boot servers have seen.

Firmware asks for its first file by TFTP without saying its MAC address. The kernel's neighbour table knows it when the
client is on the same wire; later requests name the MAC or the node, and what they said is remembered for the address.
It serves the time-line only: nothing is allowed or denied by it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path

from metald.boot.directory import BootDirectory

_ARP = Path("/proc/net/arp")
_COMPLETE = 0x2  # ATF_COM of <linux/if_arp.h>: the entry's MAC address is known


class Clients:
    """Remembers the node of each address; bounded, the least recently used goes first."""

    def __init__(self, directory: BootDirectory, *, limit: int = 65536) -> None:
        self._directory = directory
        self._limit = limit
        self._nodes: OrderedDict[str, str] = OrderedDict()

    def learn(self, address: str, node_uuid: str) -> None:
        """The client at `address` showed that it is this node."""
        self._nodes[address] = node_uuid
        self._nodes.move_to_end(address)
        if len(self._nodes) > self._limit:
            self._nodes.popitem(last=False)

    def forget(self, address: str) -> None:
        """The client at `address` is somebody else now."""
        self._nodes.pop(address, None)

    def known(self, address: str) -> str | None:
        """The node's UUID from memory alone."""
        return self._nodes.get(address)

    def on_a_wire(self, address: str) -> bool:
        """Whether the neighbour table may know the address, so that `node_of` is worth its while."""
        return ":" not in address and not address.startswith("127.")

    async def node_of(self, address: str) -> str | None:
        """The node's UUID: by the neighbour table, which is fresher, else from memory."""
        mac = await asyncio.to_thread(neighbour, address) if self.on_a_wire(address) else None
        node = self._directory.node_by_mac(mac) if mac else None
        if node is not None:
            self.learn(address, node.uuid)
            return node.uuid
        return self.known(address)


def neighbour(address: str, table: Path = _ARP) -> str | None:
    """The MAC address that the kernel's IPv4 neighbour table holds for an address, lower case, or None."""
    try:
        lines = table.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 4 and fields[0] == address and int(fields[2], 16) & _COMPLETE:
            return fields[3].lower()
    return None
