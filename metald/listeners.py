"""Binding addresses and accepting: what the system refuses is told with the setting that asked for it; a crowd is let in few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator

from metald.config import ConfigError, parse_listen

_REMEDIES = {
    errno.EADDRINUSE: "Another program has this address: end it, or set another.",
    errno.EADDRNOTAVAIL: "This machine does not have the address: set one that it has.",
    errno.EACCES: "A port below 1024 needs root or CAP_NET_BIND_SERVICE; a folder must let metald's account in.",
}


_QUEUE = 4096
_ACCEPTED = 4
"""Connections that are accepted in one round of the loop; whoever is connected is not held up by more."""


async def bound(listen: str) -> list[socket.socket]:
    """The API's sockets, one for each address that the name has."""
    host, port = parse_listen(listen)
    with naming("api.listen", listen):
        found = await sockets(host, port)
        if not found:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return found


async def sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address that the name has; an empty name means every address of this machine.

    An address of a family that the kernel does not have (IPv6 may be turned off) is left out.

    Raises:
        OSError: an address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, at in dict.fromkeys((f, a) for f, _, _, _, a in found):
            try:
                made.append(socket.create_server(at, family=family, backlog=_QUEUE))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
    except OSError:
        for each in made:
            each.close()
        raise
    return made


async def serve(
    factory: Callable[[], asyncio.BaseProtocol],
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    handshake: float | None = None,
) -> asyncio.Server:
    """Accept on a listening socket, a few connections in one round of the event loop.

    Args:
        factory: makes a connection's protocol.
        listener: is the server's from now on.
        tls: its certificate, if it is to speak TLS.
        handshake: seconds that TLS may take to begin.
    """
    server = await asyncio.get_running_loop().create_server(
        factory, sock=listener, backlog=_ACCEPTED, ssl=tls, ssl_handshake_timeout=handshake
    )
    # asyncio accepts as many at a time as may queue up in the kernel; the queue is to be the longer one
    listener.listen(_QUEUE)
    return server


@contextlib.contextmanager
def naming(setting: str, value: str) -> Iterator[None]:
    """Say which setting asked for what the system refused."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Correct the setting.")
        raise ConfigError(f"{setting}: {value} cannot be used: {os.strerror(error.errno or 0)}. {remedy}") from error
