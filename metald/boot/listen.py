"""Addresses to listen on, and how they look in a URL."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from metald.config import ConfigError


def parse_listen(text: str, setting: str) -> list[tuple[str, int]]:
    """Read `host:port`, `[v6]:port`, `*:port` or several of them with commas between.

    `*` means every address of both families and becomes two entries.

    Args:
        text: the setting's value; empty means nowhere.
        setting: its name, for the error.

    Raises:
        ConfigError: names the setting and what is allowed.
    """
    found: list[tuple[str, int]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        host, _, port = part.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"{setting}: {part!r} has no port; write host:port, [v6]:port or *:port.")
        if host in ("*", ""):
            found += [("0.0.0.0", int(port)), ("::", int(port))]  # noqa: S104  # what the operator asked for
            continue
        host = host.removeprefix("[").removesuffix("]")
        if host == "localhost":
            host = "127.0.0.1"
        try:
            ip_address(host)
        except ValueError:
            raise ConfigError(f"{setting}: {host!r} is not an IP address; write host:port, [v6]:port or *:port.") from None
        found.append((host, int(port)))
    return found


def url_host(address: str) -> str:
    """An IP address as it stands in a URL: brackets around IPv6, no zone."""
    bare = plain(address)
    return f"[{bare}]" if ":" in bare else bare


@lru_cache(maxsize=1 << 14)
def plain(address: str) -> str:
    """An IP address in its shortest text: without zone, and an IPv4 address out of its IPv6 mapping."""
    bare = address.partition("%")[0]
    try:
        parsed = ip_address(bare)
    except ValueError:
        return bare
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)
