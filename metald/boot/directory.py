"""What the boot servers need to know of the fleet, and whom they tell what they saw.

The boot servers (TFTP, HTTP, DHCP providers) know nodes only through this contract; `app.py` hands them the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from metald.model import Node, Port


class BootDirectory(Protocol):
    """Synchronous look-ups in memory, and two ways to report."""

    def node_by_mac(self, mac: str) -> Node | None:
        """The node that owns a MAC address (lower case, colons), or None."""

    def node(self, uuid: str) -> Node | None:
        """The node with this UUID, or None."""

    def ports(self, node_uuid: str) -> list[Port]:
        """The node's ports."""

    def seen(self, kind: str, *, node_uuid: str | None, data: Mapping[str, Any]) -> None:
        """Report one thing that a booting machine did. Never blocks, never raises.

        Args:
            kind: event type: `node.dhcp`, `node.tftp`, `node.http`, `boot.unknown`, and what the doctor thinks of it.
            node_uuid: the node, when known; where it is not, `boot.` stands for `node.` in the event's type.
            data: facts: `client`, `file`, `bytes`, `seconds`, `blksize`, `windowsize`, `retransmits`, `mac`, `error`, `warning`.
        """

    async def ramdisk_called(self, node_uuid: str, facts: Mapping[str, Any]) -> None:
        """A ramdisk proved its boot token and reports where its sshd listens. Durable when it returns.

        Args:
            facts: `address` (IP), `port` (int), and what the ramdisk says of itself (`uptime`, `boot_mode`, `macs`).
        """

    async def credentials_taken(self, node_uuid: str, address: str) -> str:
        """Record that `address` fetched the private host key of the node's present boot; the first one to come holds it.

        Returns:
            The address that holds it: `address` itself, or the one that came before.
        """
