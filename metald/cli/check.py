"""`metald check-config`: what can be found wrong with the settings before anything is started."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from metald.boot.listen import parse_listen
from metald.config import ConfigError, Settings, is_loopback
from metald.config import parse_listen as parse_one


def check(settings: Settings) -> None:
    """Check addresses, files and combinations.

    Raises:
        ConfigError: names the setting, what is wrong, and the remedy.
    """
    parse_listen(settings.boot.tftp_listen, "boot.tftp_listen")
    parse_listen(settings.boot.http_listen, "boot.http_listen")
    _check_urls(settings)
    host, _ = parse_one(settings.api.listen)
    if settings.api.auth == "noauth" and not is_loopback(host) and not settings.api.allow_insecure:
        raise ConfigError(
            f'api.auth is "noauth" and api.listen is {settings.api.listen}, which other machines may reach. '
            'Set api.auth to "http_basic", listen on 127.0.0.1, or set api.allow_insecure if the network is closed.'
        )
    for name, path in (
        ("api.htpasswd", settings.api.htpasswd),
        ("api.users", settings.api.users),
        ("keystone.ca_file", settings.keystone.ca_file),
        ("api.tls_certificate", settings.api.tls_certificate),
        ("api.tls_key", settings.api.tls_key),
    ):
        if path and not Path(path).is_file():
            raise ConfigError(f"{name}: there is no file {path}.")
    for name, path in (("dhcp.dnsmasq_hostsdir", settings.dhcp.dnsmasq_hostsdir), ("dhcp.dnsmasq_optsdir", settings.dhcp.dnsmasq_optsdir)):
        if path and not Path(path).is_dir():
            raise ConfigError(f"{name}: there is no directory {path}. Create it and give it to dnsmasq.")
    if settings.boot.tftp_listen and not Path(settings.boot.ipxe_dir).is_dir():
        raise ConfigError(f"boot.ipxe_dir: there is no directory {settings.boot.ipxe_dir}. Install Debian's package ipxe, or set it.")
    for root in settings.images.file_roots:
        if not Path(root).is_absolute():
            raise ConfigError(f"images.file_roots: {root!r} is not an absolute path. Write it from / on.")


def _check_urls(settings: Settings) -> None:
    for name, url in (("api.public_url", settings.api.public_url), ("boot.http_url", settings.boot.http_url)):
        if not url:
            continue
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"{name}: {url!r} is not a URL. Write http://host:port.")
