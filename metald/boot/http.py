"""The HTTP server for machines: boot scripts, boot files, and what a ramdisk gets and tells during one boot.

    GET  /boot.ipxe                           the first script
    GET  /boot/ipxe?mac=...&mac=...           the script of the machine with these MAC addresses
    GET  /pxelinux.cfg/{mac}                  the same, one address
    GET  /ipxe/{file}, /ramdisk/{file}        boot loaders, kernel, initramfs
    GET  /boot/{node}/{token}/keys            the ramdisk's SSH host key and the client key it is to accept, as JSON
    GET  /boot/{node}/{token}/dropbear_host_key, .../host_key, .../authorized_keys    the same, one by one
    POST /boot/{node}/{token}/ready           the ramdisk's sshd listens
    GET  /boot/{node}/{token}/image, .../configdrive    what the workflow prepared for this boot
    GET  /boot/{node}/{token}/deploy_kernel, .../deploy_ramdisk    the files of a ramdisk with an agent that the node names
    GET  /boot/{node}/{token}/boot_iso, .../instance_kernel, .../instance_ramdisk, .../instance_stage2, .../ks.cfg
                                              what an instance on the network, or an installer, boots (the instance's token)

Rules: it is apart from the API and has no way into it. Whatever belongs to one boot needs that boot's token, compared
in constant time; its private host key goes to one client address only. The token is never part of what is reported.
Every request is reported once, when it has ended. Every wait on a client has a deadline, and connections are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import web

from metald.boot import credentials, instance
from metald.boot.directory import BootDirectory
from metald.boot.files import BootFiles, Found
from metald.boot.gate import Gate
from metald.boot.listen import parse_listen, plain
from metald.boot.ready import read_fields, ready_facts
from metald.boot.render import Asker, parse_mac
from metald.boot.sendfile import Sent, send_file
from metald.config import ConfigError, Settings
from metald.errors import MetaldError, NotAllowed, NotFound
from metald.limits import Bandwidth, Queue, on_behalf_of
from metald.model import Node

ImageSource = Callable[[Node, str], Path | None]
"""Given a node and the last part of such an address: the file that the node's present boot may fetch, or None."""

KickstartSource = Callable[[Node, str], str]
"""Given a node and the URL of its heartbeats: the kickstart file of its installation. Raises Invalid when it has none."""

MAX_BODY = 64 << 10
CALL_TIMEOUT = 60.0
"""Seconds until a ramdisk's call must be durable."""
MAX_MACS = 16
LINGER = 1.0
"""Seconds that a client which was answered early may go on sending its body, so that it gets to read the answer."""
STOP_GRACE = 2.0
"""Seconds that running requests have when the server stops; as many again after they were cancelled."""
_NOT_KEPT = {"Cache-Control": "no-store"}
_OF_AGENTS = ("image", "configdrive")

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_SENT = web.RequestKey("sent", Sent)
_FILE = web.RequestKey("file", str)
_NODE = web.RequestKey("node", str)


class BootHttp:
    """The server. `start` binds, so that root can be dropped after it; `close` ends what still runs."""

    def __init__(
        self,
        directory: BootDirectory,
        files: BootFiles,
        settings: Settings,
        image_source: ImageSource,
        kickstarts: KickstartSource | None = None,
    ) -> None:
        self._directory = directory
        self._files = files
        self._image_source = image_source
        self._kickstarts = kickstarts
        self._stall = settings.boot.http_stall_timeout
        self._listen = parse_listen(settings.boot.http_listen, "boot.http_listen")
        self._gate = Gate(settings.boot.http_connections, self._stall)
        self.bandwidth = Bandwidth(settings.boot.http_bandwidth, "the boot server's bandwidth", "boot.http_bandwidth")
        self._per_client = settings.boot.http_bandwidth_per_client
        self._shares: WeakValueDictionary[str, Bandwidth] = WeakValueDictionary()  # of who is being served
        self._tls = settings.boot.http_tls_certificate, settings.boot.http_tls_key
        self.served: Counter[int] = Counter()
        """Answers by status."""
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    @property
    def queues(self) -> list[Queue]:
        """Who waits for what here."""
        return [self.bandwidth.queue, self._gate.queue]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [socket.getsockname()[:2] for server in self._servers for socket in server.sockets]

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: an address cannot be bound.
            ConfigError: certificate or key cannot be used.
        """
        tls = _tls_context(*self._tls)
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
            for host, port in self._listen:
                # Not reuse_port: a second daemon on the same address must be told.
                self._servers.append(await asyncio.get_running_loop().create_server(factory, host, port, backlog=1024, ssl=tls))
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

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._reported], client_max_size=MAX_BODY)
        get = app.router.add_get
        get("/boot.ipxe", self._first)
        get("/boot/ipxe", self._script)
        get("/pxelinux.cfg/{file}", self._tree)
        get("/ipxe/{file:.+}", self._tree)
        get("/ramdisk/{file}", self._tree)
        own = "/boot/{node}/{token}"
        get(f"{own}/keys", self._keys)
        get(f"{own}/host_key", self._host_key)
        get(f"{own}/dropbear_host_key", self._dropbear)
        get(f"{own}/authorized_keys", self._authorized_keys)
        get(f"{own}/{{what:image|configdrive|deploy_kernel|deploy_ramdisk}}", self._prepared)
        get(f"{own}/{{what:boot_iso|instance_kernel|instance_ramdisk|instance_stage2}}", self._of_instance)
        get(f"{own}/ks.cfg", self._kickstart)
        app.router.add_post(f"{own}/ready", self._ready)
        return app

    # -- what every request goes through

    @web.middleware
    async def _reported(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn errors into answers, and tell the directory what was asked and what went out."""
        self._gate.asked(request.protocol)
        sent = request[_SENT] = Sent()
        request[_FILE] = _shown(request)
        begun = time.monotonic()
        try:
            response = await self._answer(request, handler, sent)
            if not response.prepared:
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
            sent.error = str(error)
            return web.Response(status=error.status, text=f"{error}\n")
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
            _log.exception("boot HTTP: %s %s failed", request.method, request[_FILE])
            sent.error = "internal error"
            return web.Response(status=500, text="Internal error.\n")

    def _tell(self, request: web.Request, sent: Sent, seconds: float) -> None:
        self.served[sent.status] += 1
        client = _client(request)
        data: dict[str, Any] = {
            "client": client,
            "file": request[_FILE],
            "bytes": sent.bytes,
            "seconds": round(seconds, 6),
            "status": sent.status,
        }
        if request.method != "GET":
            data["method"] = request.method
        if sent.error:
            data["error"] = sent.error
        node = request.get(_NODE) or self._files.clients.known(client)
        self._directory.seen("node.http", node_uuid=node, data=data)

    # -- scripts and files

    def _asker(self, request: web.Request, macs: tuple[str, ...] = ()) -> Asker:
        local = request.transport.get_extra_info("sockname") if request.transport else None
        return Asker(self._files.http_base_url(request.scheme, request.host, local or ("127.0.0.1", 80)), macs)

    async def _first(self, request: web.Request) -> web.StreamResponse:
        return await self._found(request, self._files.find("boot.ipxe", self._asker(request)))

    async def _script(self, request: web.Request) -> web.StreamResponse:
        told = request.query.getall("mac", [])[:MAX_MACS]
        macs = tuple(dict.fromkeys(filter(None, map(parse_mac, told))))
        found = self._files.script(self._asker(request, macs))
        if found.node_uuid is None:
            client = _client(request)
            self._files.clients.forget(client)
            self._directory.seen("boot.unknown", node_uuid=None, data={"client": client, "mac": list(macs), "file": found.name})
        return await self._found(request, found)

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        return await self._found(request, self._files.find(request.path, self._asker(request)))

    async def _found(self, request: web.Request, found: Found) -> web.StreamResponse:
        if found.node_uuid is not None:
            self._knows(request, found.node_uuid)
        if isinstance(found.content, Path):
            return await self._send(request, found.content)
        return web.Response(text=found.content, headers=_NOT_KEPT)

    async def _send(self, request: web.Request, path: Path) -> web.StreamResponse:
        shares = [self.bandwidth]
        if self._per_client:
            client, setting = _client(request), "boot.http_bandwidth_per_client"
            own = self._shares.get(client) or Bandwidth(self._per_client, "the machine's share of the boot server's bandwidth", setting)
            self._shares[client] = own
            shares.append(own)
        with on_behalf_of(request.get(_NODE) or ""):
            return await send_file(request, path, request[_SENT], shares, stall=self._stall)

    def _knows(self, request: web.Request, node_uuid: str) -> None:
        request[_NODE] = node_uuid
        self._files.clients.learn(_client(request), node_uuid)

    # -- what belongs to one boot

    def _boot_of(self, request: web.Request, *keys: str) -> Node:
        """The node whose present boot the request has proved to be of.

        Args:
            request: the request.
            keys: of other tokens than the boot's that prove it too.

        Raises:
            NotAllowed: no such node, or not the token of its present boot.
        """
        node = self._directory.node(request.match_info["node"])
        token = request.match_info["token"]
        if not any(credentials.check_token(node, token, key) for key in ("boot_token", *keys)):
            if node is not None:
                request[_NODE] = node.uuid
            raise NotAllowed("This is not the token of the node's present boot.")
        assert node is not None
        self._knows(request, node.uuid)
        return node

    async def _private_key_of(self, request: web.Request) -> tuple[Node, str]:
        """The host key, when this client is the first of the boot to ask for it.

        Raises:
            NotAllowed: wrong token, or another client has fetched the key.
            NotFound: this boot has none.
        """
        node = self._boot_of(request)
        key = node.driver_internal_info.get("boot_host_private_key")
        if not isinstance(key, str):
            raise NotFound("This boot has no host key.")
        client = _client(request)
        async with asyncio.timeout(CALL_TIMEOUT):
            holder = await self._directory.credentials_taken(node.uuid, client)
        if holder != client:
            raise NotAllowed("Another client has fetched the host key of this boot.")
        return node, key

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        node, key = await self._private_key_of(request)
        info = node.driver_internal_info
        answer = {
            "host_private_key": key,
            "host_public_key": info.get("boot_host_public_key"),
            "authorized_key": info.get("boot_client_public_key"),
        }
        return web.json_response(answer, headers=_NOT_KEPT)

    async def _host_key(self, request: web.Request) -> web.StreamResponse:
        _, key = await self._private_key_of(request)
        return web.Response(text=key, headers=_NOT_KEPT)

    async def _dropbear(self, request: web.Request) -> web.StreamResponse:
        _, key = await self._private_key_of(request)
        return web.Response(body=credentials.dropbear_private_key(key), headers=_NOT_KEPT)

    async def _authorized_keys(self, request: web.Request) -> web.StreamResponse:
        key = self._boot_of(request).driver_internal_info.get("boot_client_public_key")
        if not isinstance(key, str):
            raise NotFound("This boot has no client key.")
        return web.Response(text=f"{key}\n", headers=_NOT_KEPT)

    async def _prepared(self, request: web.Request) -> web.StreamResponse:
        what = request.match_info["what"]
        node = self._boot_of(request, *([credentials.IMAGE_TOKEN] if what in _OF_AGENTS else []))
        path = self._image_source(node, what)
        if path is None:
            raise NotFound(f"This boot has no {what}.")
        return await self._send(request, path)

    def _instance_of(self, request: web.Request) -> Node:
        """The node whose instance the request has proved to be of.

        Raises:
            NotAllowed: no such node, or not the token of its instance.
        """
        node = self._directory.node(request.match_info["node"])
        if not instance.check_token(node, request.match_info["token"]):
            raise NotAllowed("This is not the token of the node's instance.")
        assert node is not None
        self._knows(request, node.uuid)
        return node

    async def _of_instance(self, request: web.Request) -> web.StreamResponse:
        node = self._instance_of(request)
        path = self._image_source(node, request.match_info["what"])
        if path is None:
            raise NotFound(f"This instance has no {request.match_info['what']}.")
        return await self._send(request, path)

    async def _kickstart(self, request: web.Request) -> web.StreamResponse:
        node = self._instance_of(request)
        if self._kickstarts is None:
            raise NotFound("Nothing is installed by kickstart files here.")
        text = self._kickstarts(node, f"{self._files.api_url(self._asker(request).base_url)}/v1/heartbeat/{node.uuid}")
        return web.Response(text=text, headers=_NOT_KEPT)

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        node = self._boot_of(request)
        async with asyncio.timeout(self._stall):
            body = await request.read()
        facts = ready_facts(read_fields(request.content_type, body), _client(request))
        async with asyncio.timeout(CALL_TIMEOUT):
            await self._directory.ramdisk_called(node.uuid, facts)
        return web.Response(status=204)


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


def _client(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return plain(peer[0]) if peer else plain(request.remote or "")


def _shown(request: web.Request) -> str:
    """The path as it is reported: without the token, and no longer than a line."""
    match request.path.strip("/").split("/"):
        case ["boot", node, _, *rest]:
            return "/".join(["boot", node, *rest])[:200]
    return request.path.lstrip("/")[:200]


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
