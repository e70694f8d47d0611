"""DHCP providers: how machines of the provisioning network learn what they shall boot."""

from __future__ import annotations

from metald.boot.dhcp.base import DhcpProvider, NoDhcp
from metald.boot.dhcp.dnsmasq import DnsmasqDhcp
from metald.boot.dhcp.own import own_leases, tftp_address
from metald.boot.dhcp.rendered import RenderedDhcp
from metald.config import Settings

__all__ = ["DhcpProvider", "DnsmasqDhcp", "NoDhcp", "RenderedDhcp", "answers", "provider"]


def answers(settings: Settings) -> bool:
    """Whether the provider is a DHCP server of our own."""
    return settings.dhcp.provider in ("proxy", "lease")


def provider(settings: Settings) -> DhcpProvider:
    """The provider that `dhcp.provider` names.

    Raises:
        ConfigError: it lacks settings that it needs.
    """
    if settings.dhcp.provider == "dnsmasq":
        return DnsmasqDhcp(settings)
    if answers(settings):
        own_leases(settings)
        tftp_address(settings)
        return RenderedDhcp(settings)
    return NoDhcp()
