"""Who stands between a machine and the boot HTTP server: a proxy of the operator's, or a worker process of ours.

Both tell for whom they ask, and send files themselves that the answer only names (`X-Accel-Redirect`, nginx's word for it). A proxy is
known by its address (`boot.http_fronts`); a worker by the Unix socket that it comes through, which nobody else can open.

Rule: what these headers say counts from a front and from nobody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from aiohttp import web

from metald.boot.body import Body
from metald.boot.listen import plain
from metald.config import ConfigError, Settings

ACCEL = "X-Accel-Redirect"
HANDED = "X-Metald-Handed"
"""The number of what was handed to a worker, by which it tells how it went."""
SECRET = "X-Metald-Secret"  # noqa: S105  # the name of one
"""Proves that a worker speaks for itself, and does not pass on what a machine says."""
_BY_WORKER = "/worker"
WORKER, CLIENT, LOCAL, SCHEME = "X-Metald-Worker", "X-Metald-Client", "X-Metald-Local", "X-Metald-Scheme"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, and how the machine reached us."""

    client: str
    """The machine's IP address."""
    scheme: str
    local: tuple[str, int]
    """The address and port that it reached."""
    worker: str = ""
    """The worker that asks for it; empty for nobody's."""
    accel: str = ""
    """What stands before the path of a file that the front sends itself; empty: it cannot."""


class Fronts:
    """Knows fronts.

    Raises:
        ConfigError: `boot.http_fronts` or `boot.http_accel` cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        boot = settings.boot
        try:
            self._networks = [ipaddress.ip_network(text) for text in boot.http_fronts]
        except ValueError as error:
            raise ConfigError(f"boot.http_fronts: {error}. Write addresses or networks, such as 127.0.0.1 or 10.0.0.0/24.") from None
        if boot.http_accel and not (boot.http_accel.startswith("/") and boot.http_fronts):
            raise ConfigError("boot.http_accel: it must begin with / and needs boot.http_fronts. Write for example /metald-files.")
        self._accel = boot.http_accel.rstrip("/")

    def visitor(self, request: web.Request) -> Visitor:
        """Who asks."""
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport else None
        local = transport.get_extra_info("sockname") if transport else None
        if transport is not None and not isinstance(local, tuple):
            return _by_worker(request.headers)
        host = plain(peer[0]) if peer else plain(request.remote or "")
        here = (str(local[0]), int(local[1])) if local else ("127.0.0.1", 80)
        if not self._networks or not self._is_front(host):
            return Visitor(host, request.scheme, here)
        client = request.headers.get("X-Real-IP") or request.headers.get("X-Forwarded-For", "").rpartition(",")[2]
        scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
        return Visitor(_address(client) or host, scheme if scheme in ("http", "https") else "http", here, accel=self._accel)

    def _is_front(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def path_for_front(body: Body, accel: str) -> str:
    """What the header says of a body that is one file here; empty when the front cannot send it."""
    path = body.path
    return f"{accel}{quote(str(path))}" if path is not None else ""


def _by_worker(headers: Mapping[str, str]) -> Visitor:
    host, _, port = headers.get(LOCAL, "127.0.0.1:80").rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else 80
    return Visitor(headers.get(CLIENT, ""), headers.get(SCHEME, "http"), (host, number), headers.get(WORKER, "0"), _BY_WORKER)


def _address(text: str) -> str:
    """An address as a header tells it, or nothing."""
    bare = text.strip().removeprefix("[").removesuffix("]")
    try:
        return plain(str(ipaddress.ip_address(bare)))
    except ValueError:
        return ""


def file_of(header: str) -> Path:
    """The file that an answer to a worker names."""
    return Path(unquote(header.removeprefix(_BY_WORKER)))
