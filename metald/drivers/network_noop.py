"""The network interface `noop`: one flat network that is as it is. DHCP entries are the boot interface's."""

from __future__ import annotations

from metald.drivers.base import Network


class NoopNetwork(Network):
    """Connects nothing; every method of the contract does nothing by default."""

    name = "noop"
