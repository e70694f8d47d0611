"""Listening: the API's application on sockets that are bound already, behind its gate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from socket import socket

from aiohttp import web

from metald import runtime
from metald.http import serverlog
from metald.http.app import GATE
from metald.listeners import serve

_LAST_REQUESTS = 5.0
"""Seconds that requests get to end when the daemon stops; longer than one waits for a busy node."""
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
    handshake = gate.settings.header_timeout if tls is not None else None
    servers: list[asyncio.Server] = []
    try:
        for listener in listeners:
            servers.append(await serve(factory, listener, tls=tls, handshake=handshake))
            runtime.prefer(listener.fileno())
        yield
    finally:
        for listener, server in zip(listeners, servers, strict=False):  # fewer servers, where one could not be started
            runtime.prefer(listener.fileno(), preferred=False)
            server.close()
        await runner.cleanup()
        gate.close()
