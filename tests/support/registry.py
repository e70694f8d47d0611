"""Container registries for tests: a strict one of our own, which can misbehave, and Debian's docker-registry.

Both are filled and asked over HTTP alone, on loopback and without TLS.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
from aiohttp import web

from tests.support.daemon import free_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
USER, PASSWORD = "robot", "pass:word"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """What a manifest says of a blob."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


EMPTY = b"{}"


def manifest(*layers: dict[str, Any], **more: Any) -> bytes:
    """A manifest of an artifact, as ORAS makes it."""
    empty = descriptor(EMPTY, "application/vnd.oci.empty.v1+json")
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": list(layers), **more}).encode()


def index(*manifests: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}).encode()


class Registry:
    """What both have: where it is, and how it is filled."""

    host = ""
    name = "images/debian"

    def __init__(self) -> None:
        self.login = f"{USER}:{PASSWORD}"

    def url(self, reference: str) -> str:
        return f"oci://{self.host}/{self.name}{'@' if ':' in reference else ':'}{reference}"

    async def put(self, blobs: list[bytes], manifests: dict[str, bytes]) -> None:
        """Store blobs, and manifests by tag or digest."""
        raise NotImplementedError

    async def put_image(self, tag: str, data: bytes, media_type: str = "application/octet-stream", **more: Any) -> bytes:
        """Store an image of one layer; returns its manifest."""
        made = manifest(descriptor(data, media_type), **more)
        await self.put([data], {tag: made, digest_of(made): made})
        return made


@dataclass
class Trouble:
    """How the strict registry misbehaves."""

    manifest: bytes | None = None
    """Sent in the place of every manifest."""
    blob: bytes | None = None
    """Sent in the place of every blob."""
    forgets: int = 0
    """How often all tokens have run out when a blob is asked for."""
    challenge: str = ""
    """Sent in the place of its own."""
    failures: int = 0
    """Answers of 503 before the first good one."""
    token: object = field(default_factory=object)
    """Sent in the place of tokens, if it is no plain object."""


class StrictRegistry(Registry):
    """Obeys OCI Distribution 1.1 and Docker's token authentication to the letter, and counts. Blobs are redirected to another server."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.trouble = Trouble()
        self.public = False
        self._tokens: set[str] = set()
        self._cdn = ""

    async def put(self, blobs: list[bytes], manifests: dict[str, bytes]) -> None:
        self.blobs |= {digest_of(data): data for data in blobs}
        self.manifests |= manifests

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[StrictRegistry]:
        registry, cdn = web.Application(), web.Application()
        registry.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        registry.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        registry.router.add_get("/token", self._token)
        cdn.router.add_get("/{digest}", self._content)
        async with contextlib.AsyncExitStack() as stack:
            ports = []
            for app in (registry, cdn):
                runner = web.AppRunner(app, shutdown_timeout=0.1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                ports.append(runner.addresses[0][1])
            self.host, self._cdn = f"127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
            yield self

    def _check(self, request: web.Request) -> web.Response | None:
        """None when the request may pass."""
        if self.trouble.failures:
            self.trouble.failures -= 1
            return web.Response(status=503)
        if self.public:
            return None
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and token in self._tokens:
            return None
        scope = f"repository:{request.match_info['name']}:pull"
        own = f'Bearer realm="http://{self.host}/token",service="strict",scope="{scope}"'
        return web.json_response(
            {"errors": [{"code": "UNAUTHORIZED"}]}, status=401, headers={"WWW-Authenticate": self.trouble.challenge or own}
        )

    async def _token(self, request: web.Request) -> web.Response:
        self.asked["token"] += 1
        wanted = base64.b64encode(self.login.encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            return web.Response(status=401)
        assert request.query["service"] == "strict"
        assert re.fullmatch(r"repository:[a-z0-9/._-]+:pull", request.query["scope"])
        if type(self.trouble.token) is not object:
            return web.json_response(self.trouble.token)
        token = f"t{self.asked['token']}"
        self._tokens.add(token)
        return web.json_response({"token": token, "expires_in": 60})

    async def _manifest(self, request: web.Request) -> web.Response:
        self.asked["manifest"] += 1
        if (refused := self._check(request)) is not None:
            return refused
        data = self.manifests.get(request.match_info["reference"])
        if data is None or request.match_info["name"] != self.name:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        kind = json.loads(data).get("mediaType", MANIFEST)
        assert kind in request.headers["Accept"], "a strict registry sends nothing that was not asked for"
        return web.Response(body=self.trouble.manifest or data, content_type=kind, headers={"Docker-Content-Digest": digest_of(data)})

    async def _blob(self, request: web.Request) -> web.Response:
        self.asked["blob"] += 1
        if self.trouble.forgets:
            self.trouble.forgets -= 1
            self._tokens.clear()
        if (refused := self._check(request)) is not None:
            return refused
        if request.match_info["digest"] not in self.blobs:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
        raise web.HTTPTemporaryRedirect(f"{self._cdn}/{request.match_info['digest']}")

    async def _content(self, request: web.Request) -> web.Response:
        self.asked["content"] += 1
        assert "Authorization" not in request.headers, "a login was sent to another server"
        return web.Response(body=self.trouble.blob or self.blobs[request.match_info["digest"]])


class DockerRegistry(Registry):
    """Debian's docker-registry as a process of its own, with a password file.

    Args:
        folder: everything of it lies here.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[DockerRegistry]:
        self._folder.mkdir()
        self.host = f"127.0.0.1:{free_port()}"
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (self._folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        settings = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            "http": {"addr": self.host, "secret": "words"},
            "auth": {"htpasswd": {"realm": "test", "path": str(self._folder / "htpasswd")}},
        }
        (self._folder / "config.yml").write_text(json.dumps(settings))
        with (self._folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                "docker-registry", "serve", str(self._folder / "config.yml"), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            await self._answers(process)
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60), aiohttp.ClientSession() as web_client:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with web_client.get(f"http://{self.host}/v2/"):
                        return
                await asyncio.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text())

    async def put(self, blobs: list[bytes], manifests: dict[str, bytes]) -> None:
        base = f"http://{self.host}/v2/{self.name}"
        login = {"Authorization": aiohttp.encode_basic_auth(USER, PASSWORD)}
        async with aiohttp.ClientSession(headers=login, raise_for_status=True) as web_client:
            for data in (*blobs, EMPTY):
                async with web_client.post(f"{base}/blobs/uploads/") as answer:
                    place = answer.headers["Location"]
                async with web_client.put(f"{place}&digest={digest_of(data)}", data=io.BytesIO(data)):
                    pass
            # those that others lead to come first
            for reference, data in sorted(manifests.items(), key=lambda one: b'"manifests"' in one[1]):
                kind = json.loads(data)["mediaType"]
                async with web_client.put(f"{base}/manifests/{reference}", data=data, headers={"Content-Type": kind}):
                    pass
