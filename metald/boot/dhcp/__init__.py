"""DHCP providers: how the DHCP server of the provisioning network learns what machines shall boot."""

from __future__ import annotations

from metald.boot.dhcp.base import DhcpProvider, NoDhcp
from metald.boot.dhcp.dnsmasq import DnsmasqDhcp
from metald.config import Settings

__all__ = ["DhcpProvider", "DnsmasqDhcp", "NoDhcp", "provider"]


def provider(settings: Settings) -> DhcpProvider:
    """The provider that `dhcp.provider` names.

    Raises:
        ConfigError: it lacks settings that it needs.
    """
    return DnsmasqDhcp(settings) if settings.dhcp.provider == "dnsmasq" else NoDhcp()
