"""Binding addresses: what the system refuses is told with the setting that asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from metald.config import ConfigError, parse_listen

_REMEDIES = {
    errno.EADDRINUSE: "Another program has this address: end it, or set another.",
    errno.EADDRNOTAVAIL: "This machine does not have the address: set one that it has.",
    errno.EACCES: "A port below 1024 needs root or CAP_NET_BIND_SERVICE; a folder must let metald's account in.",
}


async def bound(listen: str) -> list[socket.socket]:
    """The API's sockets, one for each address that the name has."""
    host, port = parse_listen(listen)
    with naming("api.listen", listen):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [socket.create_server(at, family=family, backlog=4096) for family, at in dict.fromkeys((f, a) for f, _, _, _, a in found)]


@contextlib.contextmanager
def naming(setting: str, value: str) -> Iterator[None]:
    """Say which setting asked for what the system refused."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Correct the setting.")
        raise ConfigError(f"{setting}: {value} cannot be used: {os.strerror(error.errno or 0)}. {remedy}") from error
