"""Where an agent may be called: the guard against callback URLs that lead to somewhere else than a ramdisk.

A heartbeat names the URL at which metald is to call. Whoever could choose it freely could make metald send requests into
networks that only metald reaches. Rules:

- The host is an IP address; nothing is looked up, so nothing can change between the check and the call.
- Addresses that no ramdisk has (unspecified, multicast, link-local, among them clouds' metadata services) are refused.
  Loopback is one of them unless the agent itself calls from loopback; then all of loopback is one host, `localhost` its name.
- metald calls an agent at the address that its heartbeat came from, or inside `agent.callback_networks`. Only the first may
  have its API below a path: elsewhere that would let an agent choose what is asked of a neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from metald.config import ConfigError
from metald.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FIELD = "callback_url"
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?", re.ASCII)
_LOOPBACK = ip_address("127.0.0.1")


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The setting `agent.callback_networks`, read.

    Raises:
        ConfigError: one is no network.
    """
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigError(f"agent.callback_networks: {error}. Write networks as 192.0.2.0/24.") from None


def parse(url: str) -> tuple[Address | None, int]:
    """Address and port of a callback URL; the address is None when the host is a name.

    Raises:
        Invalid: it is no URL of an agent.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    plain = parts.scheme in ("http", "https") and host and not parts.username and not parts.query and not parts.fragment
    if not plain or not _PATH.fullmatch(parts.path) or any(ord(letter) < 33 for letter in url):
        raise Invalid(
            f"Agent callback URL {url[:200]!r} is not an HTTP URL of an agent.", remedy="It is https://ADDRESS:PORT.", field=_FIELD
        )
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        return (_LOOPBACK if host == "localhost" else _address(host)), port
    except ValueError:
        return None, port


def check(url: str, called_from: str, own_ports: Collection[int]) -> None:
    """Refuse a URL at which no agent can be, whoever says it.

    Args:
        url: of the heartbeat.
        called_from: the address that the heartbeat came from; empty when that is not known.
        own_ports: of this daemon's servers.

    Raises:
        Invalid: says why.
    """
    address, port = parse(url)
    if address is None:
        return  # it is refused when it is to be called
    local = bool(called_from) and _address(called_from).is_loopback
    inside = address.is_unspecified or address.is_multicast or address.is_link_local or (address.is_loopback and not local)
    if inside or (address.is_loopback and port in own_ports):
        raise Invalid(f"Agent callback URL {url!r} does not lead to a ramdisk.", remedy="Name the ramdisk's own address.", field=_FIELD)


def permit(url: str, called_from: str, allowed: Sequence[Network]) -> None:
    """Refuse a URL that metald shall not call.

    Raises:
        Invalid: says why and which setting admits it.
    """
    address, _ = parse(url)
    if address is None:
        raise Invalid(f"Agent callback URL {url!r} names a host.", remedy="Agents must tell their IP address.", field=_FIELD)
    caller = _address(called_from) if called_from else address
    if address == caller or (address.is_loopback and caller.is_loopback):
        return
    inside = any(address.version == network.version and address in network for network in allowed)
    if inside and not urlsplit(url).path.strip("/"):
        return
    raise Invalid(
        f"The agent called from {called_from}, but asks to be called at {url}.",
        remedy="If a proxy stands between them, put the agents' network into agent.callback_networks.",
        field=_FIELD,
    )


def _address(text: str) -> Address:
    found = ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
