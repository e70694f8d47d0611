"""Which node a network address belongs to, and whether it may be the node that it says it is.

Firmware asks for its first file by TFTP without saying its MAC address, and boot scripts are asked for by telling any MAC address
one likes. The kernel's neighbour table knows better where the client is on one of our wires: it had to resolve the address to
answer. Behind a router nothing is known; then only what the client says, and the token of its boot, count.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address

from metald.boot.directory import BootDirectory
from metald.boot.neighbours import neighbour
from metald.model import Node


class Clients:
    """Remembers the node of each address; bounded, the least recently used goes first.

    Args:
        check: whether `refusal` is to look at the neighbour table.
    """

    def __init__(self, directory: BootDirectory, *, check: bool = True, limit: int = 65536) -> None:
        self._directory = directory
        self._check = check
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

    def mac_of(self, address: str) -> str | None:
        """The MAC address that the neighbour table has for an address; None where it cannot know."""
        try:
            if ip_address(address).is_loopback:
                return None
        except ValueError:
            return None
        return neighbour(address)

    def node_of(self, address: str) -> str | None:
        """The node's UUID: by the neighbour table, which is fresher, else from memory."""
        mac = self.mac_of(address)
        node = self._directory.node_by_mac(mac) if mac else None
        if node is not None:
            self.learn(address, node.uuid)
            return node.uuid
        return self.known(address)

    def refusal(self, address: str, node: Node, *, proved: bool = False) -> str:
        """Why the client at an address cannot be the node it says it is; empty when it can.

        Args:
            proved: it has told the token of the node's boot: it may then use a card that is no port of any node.
        """
        mac = self.mac_of(address) if self._check else None
        if mac is None:
            return ""
        owner = self._directory.node_by_mac(mac)
        if owner is not None and owner.uuid == node.uuid:
            return ""
        if owner is None and proved:
            return ""
        whose = "is a port of another node" if owner is not None else "is no port of that node"
        return f"the machine at {address} says that it is node {node.label}, but its MAC address {mac} {whose}"
