"""The contract with whoever hands out addresses on the provisioning network.

Rules: every call may come twice and does then nothing more. A provider touches only what belongs to the ports it is
given. Failures are `WorldError`s that name cause and remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from metald.model import Node, Port


class DhcpProvider(Protocol):
    """Lets machines boot from the network, and says which addresses they got."""

    async def bind(self, node: Node, ports: Sequence[Port]) -> None:
        """Let the node's network-booting ports have an address and their boot file.

        Raises:
            WorldError: the DHCP server cannot be told.
        """

    async def release(self, node: Node, ports: Sequence[Port]) -> None:
        """Take it back: the ports are not answered any more.

        Raises:
            WorldError: the DHCP server cannot be told.
        """

    async def addresses(self, ports: Sequence[Port]) -> dict[str, str]:
        """The IP address that each port's MAC address has at present, where the provider knows it."""


class NoDhcp:
    """Somebody else's DHCP server, which nobody tells anything."""

    async def bind(self, node: Node, ports: Sequence[Port]) -> None:
        """Nothing to do."""

    async def release(self, node: Node, ports: Sequence[Port]) -> None:
        """Nothing to do."""

    async def addresses(self, ports: Sequence[Port]) -> dict[str, str]:  # noqa: ARG002
        """Nothing is known."""
        return {}
