"""A worker process of the boot HTTP server: takes connections, asks the daemon for each answer, and sends files itself.

The daemon starts it (`workers.py`) with listening sockets that it shares with nobody, tells it the rest as JSON on standard input, and
ends it by closing that. It knows no node and keeps no state: what may be fetched, and what is told of it, is the daemon's, which it
asks through a Unix socket. So whatever comes from the network is parsed in a process that can lose nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web

from metald import runtime
from metald.boot import fronts
from metald.boot.body import of_file
from metald.boot.gate import Gate
from metald.boot.listen import plain
from metald.boot.pump import Pump
from metald.boot.sendfile import Limiter, Sending, Sent, send
from metald.errors import NotFound
from metald.listeners import serve

TOLD, TAKEN = "/-/told", "/-/taken"
"""Paths of the daemon's Unix socket: what became of a file, and bytes that are about to leave."""
MAX_BODY = 64 << 10
_LINGER = 1.0
_STOP_GRACE = 2.0
_PASSED_ON = ("Range", "If-Range", "If-None-Match", "If-Modified-Since", "User-Agent", "Content-Type", "Host")
_PASSED_BACK = ("Content-Type", "Content-Range", "Cache-Control", "ETag", "Last-Modified", "Accept-Ranges", "Allow", "Content-Length")


class Share(Limiter):
    """A bandwidth that the daemon keeps account of."""

    def __init__(self, session: aiohttp.ClientSession, secret: str, rate: int, client: str) -> None:
        self.rate = rate
        self._session, self._secret, self._client = session, secret, client

    async def take(self, size: int) -> None:
        """Return when `size` more bytes may leave."""
        if self.rate:
            told = {"client": self._client, "bytes": size}
            async with self._session.post(TAKEN, json=told, headers={fronts.SECRET: self._secret}) as answer:
                answer.raise_for_status()


class Worker:
    """See the module.

    Args:
        given: `number`, `socket` (the daemon's), `secret`,
            `descriptors`, `stall`, `connections`, `rate`, and `certificate` and `key` as PEM.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._stall = float(given["stall"])
        self._gate = Gate(int(given["connections"]), self._stall)
        self._pump: Pump
        self._session: aiohttp.ClientSession

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop."""
        given = self._given
        self._pump = Pump()
        connector = aiohttp.UnixConnector(path=given["socket"], limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=3600.0)
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._stall, lingering_time=_LINGER, shutdown_timeout=_STOP_GRACE, handle_signals=False
        )
        await runner.setup()
        assert runner.server is not None
        factory = self._gate.factory(runner.server)
        tls = _tls(given["certificate"], given["key"])
        async with aiohttp.ClientSession("http://metald", connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            servers = [await serve(factory, socket.socket(fileno=descriptor), tls=tls) for descriptor in given["descriptors"]]
            await stop.wait()
            for server in servers:
                server.close()
            await runner.cleanup()
            self._gate.close()
        self._pump.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._gate.asked(request.protocol)
        try:
            response = await self._respond(request)
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self._gate.answered(request.protocol)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        local = request.transport.get_extra_info("sockname") if request.transport else None
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        peer = request.transport.get_extra_info("peername") if request.transport else None
        client = plain(peer[0]) if peer else ""
        headers |= {
            fronts.WORKER: str(self._given["number"]),
            fronts.CLIENT: client,
            fronts.SCHEME: request.scheme,
            fronts.LOCAL: f"{local[0]}:{local[1]}" if local else "",
        }
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._stall):
                body = await request.read() if request.can_read_body else None
        except TimeoutError:
            return web.Response(status=408, text="Too slow.\n", headers={"Connection": "close"})
        try:
            async with self._session.request(request.method, request.raw_path, headers=headers, data=body, allow_redirects=False) as answer:
                if fronts.ACCEL not in answer.headers:
                    return await _pass_on(request, answer)
                await answer.read()
        except (aiohttp.ClientError, OSError):
            return web.Response(status=503, text="metald does not answer.\n")
        return await self._send(request, answer, client, begun)

    async def _send(self, request: web.Request, answer: aiohttp.ClientResponse, client: str, begun: float) -> web.StreamResponse:
        """Send a file that the daemon named, and tell it how that went."""
        sent = Sent()
        try:
            body = await asyncio.to_thread(of_file, fronts.file_of(answer.headers[fronts.ACCEL]))
            body.content_type = answer.headers.get("Content-Type", body.content_type)
            limits = [Share(self._session, self._given["secret"], int(self._given["rate"]), client)]
            return await send(request, body, sent, Sending(self._pump, limits, self._stall))
        except NotFound as error:
            sent.status, sent.error = 404, str(error)
            return web.Response(status=404, text=f"{error}\n")
        except (aiohttp.ClientError, OSError) as error:
            sent.error = sent.error or f"the client went away ({error})"
            raise
        finally:
            told = {"handed": answer.headers.get(fronts.HANDED), "status": sent.status, "bytes": sent.bytes, "error": sent.error}
            await asyncio.shield(self._tell({**told, "seconds": time.monotonic() - begun}))

    async def _tell(self, told: Mapping[str, Any]) -> None:
        try:
            async with self._session.post(TOLD, json=told, headers={fronts.SECRET: self._given["secret"]}) as answer:
                await answer.read()
        except (aiohttp.ClientError, OSError):
            pass  # the daemon tells of what it never heard again


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """What the daemon sends itself: scripts, errors, and files that are still on their way to it."""
    headers = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    if request.method != "HEAD":
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    await response.write_eof()
    return response


def _tls(certificate: str, key: str) -> ssl.SSLContext | None:
    """The server's context; its key is never on a disk that this process's account can read."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{key}\n{certificate}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


async def _main() -> None:
    runtime.prepare()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    given = json.loads(await reader.readline())
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def orphaned() -> None:
        await reader.read()
        stop.set()

    watching = asyncio.create_task(orphaned())
    await Worker(given).run(stop)
    watching.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
