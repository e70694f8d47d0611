"""The HTTP server for machines: its listeners, its limits, and what it tells of every request. `answers.py` says what is answered.

Rules: it is apart from the API and has no way into it. Every request is reported once, when it has ended. Every wait on a client has
a deadline, and connections are counted.

With `boot.http_workers` it listens at a Unix socket alone, and worker processes have the machines' connections (`workers.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from metald.boot import fronts, worker, workers
from metald.boot.answers import FILE, NODE, SENT, VISITOR, Answers, KickstartSource
from metald.boot.body import Body
from metald.boot.directory import BootDirectory
from metald.boot.files import Absent, BootFiles, shown
from metald.boot.fronts import Fronts
from metald.boot.gate import Gate
from metald.boot.listen import parse_listen
from metald.boot.pump import Pump
from metald.boot.ready import read_fields
from metald.boot.sendfile import Sending, Sent, send
from metald.config import ConfigError, Settings
from metald.errors import MetaldError, NotFound, WorldError
from metald.limits import Bandwidth, Queue, on_behalf_of
from metald.listeners import serve, sockets

MAX_BODY = 64 << 10
LINGER = 1.0
"""Seconds that a client which was answered early may go on sending its body, so that it gets to read the answer."""
STOP_GRACE = 2.0
"""Seconds that running requests have when the server stops; as many again after they were cancelled."""
_MOST_SHARES = 65536

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HANDED = web.RequestKey("handed", str)


class BootHttp:
    """The server. `start` binds, so that root can be dropped after it; `close` ends what still runs."""

    def __init__(
        self,
        directory: BootDirectory,
        files: BootFiles,
        settings: Settings,
        kickstarts: KickstartSource | None = None,
    ) -> None:
        boot = settings.boot
        self._directory = directory
        self._files = files
        self._stall = boot.http_stall_timeout
        self._answers = Answers(directory, files, kickstarts, self._send, self._stall)
        self._fronts = Fronts(settings)
        self._listen = parse_listen(boot.http_listen, "boot.http_listen")
        self._connections = boot.http_connections
        self._gate = Gate(boot.http_connections, self._stall)
        self.bandwidth = Bandwidth(boot.http_bandwidth, "the boot server's bandwidth", "boot.http_bandwidth")
        self._per_client = boot.http_bandwidth_per_client
        self._shares: OrderedDict[str, Bandwidth] = OrderedDict()
        self._tls = boot.http_tls_certificate, boot.http_tls_key
        self.served: Counter[int] = Counter()
        """Answers by status."""
        self._runner: web.AppRunner | None = None
        self._pump: Pump  # while it runs
        self._servers: list[asyncio.Server] = []
        self._count = boot.http_workers
        self._shared: list[list[socket.socket]] = []  # by address, one for each worker
        self._pem = "", ""
        self._handed: dict[str, tuple[str, dict[str, Any], str | None]] = {}
        self._workers: workers.Workers | None = None
        self._secret = secrets.token_hex(16)

    @property
    def queues(self) -> list[Queue]:
        """Who waits for what here."""
        return [self.bandwidth.queue, self._gate.queue]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        sockets = [each for server in self._servers for each in server.sockets if each.family != socket.AF_UNIX]
        return [each.getsockname()[:2] for each in (*sockets, *(shared[0] for shared in self._shared))]

    async def start(self) -> None:
        """Bind and serve; with workers, bind alone.

        Raises:
            OSError: an address cannot be bound.
            ConfigError: certificate or key cannot be used.
        """
        tls = _tls_context(*self._tls)
        self._pump = Pump()
        self._runner = web.AppRunner(
            self.application(),
            access_log=None,
            keepalive_timeout=self._stall,
            lingering_time=LINGER,
            shutdown_timeout=STOP_GRACE,
            handle_signals=False,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        factory = self._gate.factory(self._runner.server)
        try:
            if self._count:
                self._pem = _read(self._tls[0]), _read(self._tls[1])
                for host, port in self._listen:
                    self._shared.append(workers.listen(host, port, self._count))
                return
            for host, port in self._listen:
                # Not reuse_port: a second daemon on the same address must be told.
                for each in await sockets(host, port):
                    self._servers.append(await serve(factory, each, tls=tls))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, let running requests end for `STOP_GRACE`, end the rest."""
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._gate.close()
        self._servers.clear()
        for each in (each for shared in self._shared for each in shared):
            each.close()
        self._shared.clear()
        if self._runner is not None:
            self._pump.close()
            self._runner = None

    async def work(self) -> None:
        """Run the worker processes until cancelled. After root was given up: they run as who we are then."""
        assert self._runner is not None
        assert self._runner.server is not None
        path = await asyncio.to_thread(workers.make_place)
        try:
            server = await asyncio.get_running_loop().create_unix_server(self._runner.server, str(path))
            self._servers.append(server)
            given = {
                "socket": str(path),
                "secret": self._secret,
                "stall": self._stall,
                "connections": max(1, self._connections // self._count),
                "rate": min(filter(None, (self.bandwidth.rate, self._per_client)), default=0),
                "certificate": self._pem[0],
                "key": self._pem[1],
            }
            sockets = [[shared[number] for shared in self._shared] for number in range(self._count)]
            self._workers = workers.Workers(sockets, given, self._died)
            await self._workers.run()
        finally:
            await asyncio.to_thread(workers.clear, path)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._reported], client_max_size=MAX_BODY)
        app.router.add_post(worker.TOLD, self._told)
        app.router.add_post(worker.TAKEN, self._taken)
        self._answers.add(app.router)
        return app

    # -- what every request goes through

    @web.middleware
    async def _reported(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn errors into answers, and tell the directory what was asked and what went out."""
        self._gate.asked(request.protocol)
        sent = request[SENT] = Sent()
        request[FILE] = shown(request.path)
        request[VISITOR] = self._fronts.visitor(request)
        if hmac.compare_digest(request.headers.get(fronts.SECRET, "").encode(), self._secret.encode()):
            return await handler(request)  # a worker of ours speaks for itself
        begun = time.monotonic()
        try:
            response = await self._answer(request, handler, sent)
            if not response.prepared and fronts.ACCEL not in response.headers:
                sent.status = response.status
                body = response.body if isinstance(response, web.Response) else None
                sent.bytes = len(body) if isinstance(body, bytes) and request.method != "HEAD" else 0
            with contextlib.suppress(ConnectionError):  # now and not by aiohttp, so that the gate knows when the answer has left
                await response.prepare(request)
                await response.write_eof()
            return response
        except asyncio.CancelledError:
            sent.error = sent.error or "the server stopped"
            raise
        finally:
            self._gate.answered(request.protocol)
            self._tell(request, sent, time.monotonic() - begun)

    async def _answer(self, request: web.Request, handler: _Handler, sent: Sent) -> web.StreamResponse:
        try:
            return await handler(request)
        except MetaldError as error:
            sent.error = "" if isinstance(error, Absent) else str(error)
            return web.Response(status=502 if isinstance(error, WorldError) else error.status, text=f"{error}\n")
        except web.HTTPException as error:
            sent.error = error.reason
            return web.Response(status=error.status, text=f"{error.reason}\n", headers=_allow(error))
        except TimeoutError:
            sent.error = "too slow"
            return web.Response(status=408, text="Too slow.\n", headers={"Connection": "close"})
        except ConnectionError:
            sent.error = "the client went away"
            return web.Response(status=400)
        except Exception:
            _log.exception("boot HTTP: %s %s failed", request.method, request[FILE])
            sent.error = "internal error"
            return web.Response(status=500, text="Internal error.\n")

    def _tell(self, request: web.Request, sent: Sent, seconds: float) -> None:
        if _HANDED in request:
            return  # the worker will say how it went
        data, node = self._facts(request, sent, seconds)
        if sent.handed:
            data["handed_over"] = True
        self._report(data, node)

    def _facts(self, request: web.Request, sent: Sent, seconds: float) -> tuple[dict[str, Any], str | None]:
        """What is told of a request, and whose it was."""
        client = request[VISITOR].client
        data: dict[str, Any] = {
            "client": client,
            "file": request[FILE],
            "bytes": sent.bytes,
            "seconds": round(seconds, 6),
            "status": sent.status,
        }
        if request.method != "GET":
            data["method"] = request.method
        if sent.error:
            data["error"] = sent.error
        return data, request.get(NODE) or self._files.clients.node_of(client)

    def _report(self, data: dict[str, Any], node: str | None) -> None:
        self.served[data["status"]] += 1
        self._directory.seen("node.http", node_uuid=node, data=data)

    # -- how bodies leave

    async def _send(self, request: web.Request, body: Body) -> web.StreamResponse:
        visitor, sent = request[VISITOR], request[SENT]
        path = fronts.path_for_front(body, visitor.accel) if visitor.accel else ""
        if path:
            body.close()
            headers = {fronts.ACCEL: path, "Content-Type": body.content_type}
            sent.handed, sent.bytes = True, body.size if request.method != "HEAD" else 0
            if visitor.worker:
                # Noted before the answer leaves: a small file may have arrived before this returns.
                headers[fronts.HANDED] = request[_HANDED] = secrets.token_hex(8)
                self._handed[request[_HANDED]] = visitor.worker, *self._facts(request, sent, 0.0)
            return web.Response(headers=headers)
        sending = Sending(self._pump, self._limits(visitor.client), self._stall)
        with on_behalf_of(request.get(NODE) or ""):
            return await send(request, body, sent, sending)

    def _limits(self, client: str) -> list[Bandwidth]:
        """What all machines share, and what this one has, over all its connections."""
        if not self._per_client:
            return [self.bandwidth]
        own = self._shares.get(client)
        if own is None:
            own = Bandwidth(self._per_client, "the machine's share of the boot server's bandwidth", "boot.http_bandwidth_per_client")
            self._shares[client] = own
            if len(self._shares) > _MOST_SHARES:
                self._shares.popitem(last=False)
        self._shares.move_to_end(client)
        return [self.bandwidth, own]

    # -- what workers say

    async def _told(self, request: web.Request) -> web.Response:
        """How it went with a file that was handed over."""
        self._only_workers(request)
        told = read_fields("application/json", await request.read())
        handed = self._handed.pop(str(told.get("handed")), None)
        if handed is not None:
            _, data, node = handed
            data |= {name: told[name] for name in ("status", "bytes") if isinstance(told.get(name), int)}
            data["seconds"] = round(float(told.get("seconds") or 0.0), 6)
            if told.get("error"):
                data["error"] = str(told["error"])[:200]
            if not any(each.rate for each in self._limits(str(data["client"]))):
                self.bandwidth.bytes += data["bytes"]  # else it was counted when it was taken
            self._report(data, node)
        return web.Response()

    async def _taken(self, request: web.Request) -> web.Response:
        """Bytes that are about to leave: answered when they may."""
        self._only_workers(request)
        told = read_fields("application/json", await request.read())
        for each in self._limits(str(told.get("client"))):
            await each.take(int(told.get("bytes") or 0))
        return web.Response()

    def _only_workers(self, request: web.Request) -> None:
        if not hmac.compare_digest(request.headers.get(fronts.SECRET, "").encode(), self._secret.encode()):
            raise NotFound("There is no such boot file.")

    def _died(self, number: str) -> None:
        """A worker ended, and with it what it was sending."""
        for handed, (whose, data, node) in list(self._handed.items()):
            if whose == number:
                del self._handed[handed]
                self._report({**data, "bytes": 0, "error": "the worker that sent it ended"}, node)


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text() if path else ""
    return ""


def _tls_context(certificate: str, key: str) -> ssl.SSLContext | None:
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"boot.http_tls_certificate and boot.http_tls_key cannot be used: {error}.") from error
    return context


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
