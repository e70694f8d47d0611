"""The providers `proxy` and `lease`: our own DHCP server answers from the nodes' state, so nothing need be told to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from metald.boot.dhcp.base import NoDhcp
from metald.boot.dhcp.own import LEASES, read_addresses
from metald.config import Settings
from metald.errors import WorldError
from metald.model import Port

_DEADLINE = 30.0


class RenderedDhcp(NoDhcp):
    """A machine is answered while one of its cards is a port of a node, and told a boot file while it has `pxe_enabled`."""

    def __init__(self, settings: Settings) -> None:
        self._leases = Path(settings.state_dir) / LEASES if settings.dhcp.provider == "lease" else None

    async def addresses(self, ports: Sequence[Port]) -> dict[str, str]:
        """What the file of leases says."""
        if self._leases is None:
            return {}
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.to_thread(read_addresses, self._leases, [port.address for port in ports], time.time())
        except (OSError, TimeoutError) as error:
            raise WorldError(f"The leases cannot be read: {error}.", remedy="See that metald may read its state directory.") from error
