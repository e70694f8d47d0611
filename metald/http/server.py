"""Listening: the API's application on sockets that are bound already, behind its gate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from socket import socket

from aiohttp import web

from metald.http import serverlog
from metald.http.app import GATE

_LAST_REQUESTS = 5.0
"""Seconds that requests get to end when the daemon stops; longer than one waits for a busy node."""
_BACKLOG = 4096
_ACCEPTED = 4
"""Connections that are accepted in one round of the loop; requests are not held up by more."""
_LINGER = 2.0
"""Seconds that a client which was answered early may go on sending its body, so that it gets to read the answer."""
_MARGIN = 60.0


@contextlib.asynccontextmanager
async def serving(application: web.Application, listeners: Sequence[socket], tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    """Answer on the listeners until the end of the context; then let running requests end."""
    gate = application[GATE]
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=gate.settings.idle_timeout + _MARGIN,  # the gate's deadlines are the ones that count
        shutdown_timeout=_LAST_REQUESTS,
        lingering_time=_LINGER,
        logger=serverlog.logger(),
    )
    await runner.setup()
    assert runner.server is not None
    factory = gate.factory(runner.server)
    loop = asyncio.get_running_loop()
    handshake = gate.settings.header_timeout if tls is not None else None
    servers: list[asyncio.Server] = []
    try:
        for listener in listeners:
            servers += [await loop.create_server(factory, sock=listener, backlog=_ACCEPTED, ssl=tls, ssl_handshake_timeout=handshake)]
            # asyncio accepts as many at a time as may queue up in the kernel; the queue is to be the longer one
            listener.listen(_BACKLOG)
        yield
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        gate.close()
