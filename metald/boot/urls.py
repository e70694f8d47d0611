"""How machines reach the boot HTTP server and the API: one daemon on several networks needs no setting for each."""

from __future__ import annotations

from urllib.parse import urlsplit

from metald.boot import render
from metald.boot.listen import parse_listen, url_host
from metald.config import Settings
from metald.config import parse_listen as split_listen
from metald.errors import Invalid, NotFound

ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound
_WITHOUT_PORT = ("UefiHttpBoot", "GRUB ")
"""Clients, by their User-Agent, that leave the port out of Host."""


class Urls:
    """URLs for machines.

    Raises:
        Invalid: `boot.http_url` is no plain URL.
        ConfigError: `boot.http_listen` cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        boot = settings.boot
        self._url = render.check_base_url(boot.http_url) if boot.http_url else ""
        self._listens = parse_listen(boot.http_listen, "boot.http_listen")
        self._api = settings.api
        self._told_api_url = settings.agent.api_url.rstrip("/")
        self._scheme = "https" if boot.http_tls_certificate else "http"

    def base(self, local_address: str) -> str:
        """The boot HTTP server's URL for a machine that reached us at `local_address`.

        Raises:
            NotFound: there is no boot HTTP server.
        """
        if self._url:
            return self._url
        if not self._listens:
            raise NotFound("There is no boot HTTP server.", remedy="Set boot.http_listen or boot.http_url.")
        # Of several, the one of that very address, else one of every address of its family, else the first.
        version6 = ":" in local_address
        same = [each for each in self._listens if each[0] == local_address]
        open_ = [each for each in self._listens if each[0] == ANYWHERE[version6]]
        host, port = (same or open_ or self._listens)[0]
        return f"{self._scheme}://{url_host(local_address if host in ANYWHERE else host)}:{port}"

    def base_of_request(self, scheme: str, host: str, local: tuple[str, int], agent: str = "") -> str:
        """The URL for a machine that came by HTTP: the setting, else what it asked for, else where it arrived.

        Args:
            host: what it gave as Host.
            local: our address and port.
            agent: what it gave as User-Agent.
        """
        if self._url:
            return self._url
        if not agent.startswith(_WITHOUT_PORT):
            try:
                return render.check_base_url(f"{scheme}://{host}")
            except Invalid:
                pass
        return f"{self._scheme}://{url_host(local[0])}:{local[1]}"

    def api(self, base_url: str) -> str:
        """The API as a machine reaches it that reaches the boot HTTP server at `base_url`."""
        if self._told_api_url:
            return self._told_api_url
        scheme = "https" if self._api.tls_certificate else "http"
        host, port = split_listen(self._api.listen)
        host = urlsplit(base_url).hostname or "" if host in (*ANYWHERE, "*") else host
        return f"{scheme}://{url_host(host)}:{port}"
