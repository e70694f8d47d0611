"""What the boot HTTP server answers: scripts, boot files, and what a ramdisk gets and tells during one boot.

    GET  /boot/ipxe?mac=...&mac=...           the script of the machine with these MAC addresses
    GET  /{file}                              the tree of boot files, see `files.py`
    GET  /boot/{node}/{token}/keys            the ramdisk's SSH host key and the client key it is to accept, as JSON
    GET  /boot/{node}/{token}/dropbear_host_key, .../host_key, .../authorized_keys    the same, one by one
    POST /boot/{node}/{token}/ready           the ramdisk's sshd listens
    GET  /boot/{node}/{token}/image, .../configdrive    what the workflow prepared for this boot
    GET  /boot/{node}/{token}/ks.cfg          the kickstart file of an installer (the instance's token)

Rules: whatever belongs to one boot needs that boot's token, compared in constant time; its private host key goes to one client
address only, and image and config drive to no other after it. The token is never part of what is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from metald.boot import credentials, instance
from metald.boot.body import Body, of_file, of_fill
from metald.boot.directory import BootDirectory
from metald.boot.files import BootFiles, Found, Stranger
from metald.boot.fills import Remote
from metald.boot.fronts import Visitor
from metald.boot.image import BootImage
from metald.boot.ready import read_fields, ready_facts
from metald.boot.render import Asker, parse_mac
from metald.boot.sendfile import Sent
from metald.errors import NotAllowed, NotFound
from metald.model import Node

KickstartSource = Callable[[Node, str], str]
"""Given a node and the URL of its heartbeats: the kickstart file of its installation. Raises Invalid when it has none."""

MAX_MACS = 16
CALL_TIMEOUT = 60.0
"""Seconds until a ramdisk's call must be durable."""
_NOT_KEPT = {"Cache-Control": "no-store"}

SENT = web.RequestKey("sent", Sent)
FILE = web.RequestKey("file", str)
NODE = web.RequestKey("node", str)
VISITOR = web.RequestKey("visitor", Visitor)


class Answers:
    """The handlers.

    Args:
        send: answers a request with a body.
        stall: seconds that a client may take for its call.
    """

    def __init__(
        self,
        directory: BootDirectory,
        files: BootFiles,
        kickstarts: KickstartSource | None,
        send: Callable[[web.Request, Body], Awaitable[web.StreamResponse]],
        stall: float,
    ) -> None:
        self._directory = directory
        self._files = files
        self._kickstarts = kickstarts
        self._send = send
        self._stall = stall

    def add(self, router: web.UrlDispatcher) -> None:
        """The routes."""
        get = router.add_get
        get("/boot/ipxe", self._script)
        own = "/boot/{node}/{token}"
        get(f"{own}/keys", self._keys)
        get(f"{own}/host_key", self._host_key)
        get(f"{own}/dropbear_host_key", self._dropbear)
        get(f"{own}/authorized_keys", self._authorized_keys)
        get(f"{own}/{{what:image|configdrive}}", self._prepared)
        get(f"{own}/ks.cfg", self._kickstart)
        router.add_post(f"{own}/ready", self._ready)
        get("/{file:.+}", self._tree)

    # -- scripts and files

    def _asker(self, request: web.Request, macs: tuple[str, ...] = ()) -> Asker:
        visitor = request[VISITOR]
        base = self._files.urls.base_of_request(visitor.scheme, request.host, visitor.local, request.headers.get("User-Agent", ""))
        return Asker(base, macs, client=visitor.client)

    async def _script(self, request: web.Request) -> web.StreamResponse:
        told = request.query.getall("mac", [])[:MAX_MACS]
        macs = tuple(dict.fromkeys(filter(None, map(parse_mac, told))))
        found = self._files.script(self._asker(request, macs))
        if found.node_uuid is None:
            self._stranger(request, found.unknown, found.name)
        return await self._found(request, found)

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        try:
            found = self._files.find(request.path, self._asker(request))
        except Stranger as error:
            self._stranger(request, error.macs, request[FILE])
            raise
        if found.unknown:
            self._stranger(request, found.unknown, found.name)
        return await self._found(request, found)

    def _stranger(self, request: web.Request, macs: tuple[str, ...], file: str) -> None:
        """Tell of a machine that no node owns."""
        client = request[VISITOR].client
        self._files.clients.forget(client)
        self._directory.seen("boot.unknown", node_uuid=None, data={"client": client, "mac": list(macs), "file": file})

    async def _found(self, request: web.Request, found: Found) -> web.StreamResponse:
        if found.node_uuid is not None:
            self._knows(request, found.node_uuid)
        if isinstance(found.content, str):
            request[SENT].error = found.error
            return web.Response(text=found.content, headers=_NOT_KEPT)
        body = await self._body(found.content)
        if found.content_type:
            body.content_type = found.content_type
        return await self._send(request, body)

    async def _body(self, content: Path | Remote | BootImage) -> Body:
        if isinstance(content, Path):
            return await asyncio.to_thread(of_file, content)
        fills = self._files.fills
        if isinstance(content, Remote):
            return await of_fill(await fills.open(content.url))
        image: BootImage = content
        return await image.body(fills)

    def _knows(self, request: web.Request, node_uuid: str) -> None:
        request[NODE] = node_uuid
        self._files.clients.learn(request[VISITOR].client, node_uuid)

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
                request[NODE] = node.uuid
            raise NotAllowed("This is not the token of the node's present boot.")
        assert node is not None
        if refusal := self._files.clients.refusal(request[VISITOR].client, node, proved=True):
            raise NotAllowed(refusal)
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
        client = request[VISITOR].client
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
        node = self._boot_of(request, credentials.IMAGE_TOKEN)
        holder = node.driver_internal_info.get("boot_credentials_taken_by")
        by_agent = credentials.check_token(node, request.match_info["token"], credentials.IMAGE_TOKEN)
        if holder and holder != request[VISITOR].client and not by_agent:
            raise NotAllowed("Another client has fetched the host key of this boot.")
        return await self._send(request, await self._body(self._files.own_file(node, request.match_info["what"])))

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

    async def _kickstart(self, request: web.Request) -> web.StreamResponse:
        node = self._instance_of(request)
        if self._kickstarts is None:
            raise NotFound("Nothing is installed by kickstart files here.")
        text = self._kickstarts(node, f"{self._files.urls.api(self._asker(request).base_url)}/v1/heartbeat/{node.uuid}")
        return web.Response(text=text, headers=_NOT_KEPT)

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        node = self._boot_of(request)
        async with asyncio.timeout(self._stall):
            body = await request.read()
        facts = ready_facts(read_fields(request.content_type, body), request[VISITOR].client)
        async with asyncio.timeout(CALL_TIMEOUT):
            await self._directory.ramdisk_called(node.uuid, facts)
        return web.Response(status=204)
