"""Disk images in container registries: `oci://host[:port]/name[:tag][@digest]`.

Protocol: OCI Distribution 1.1 (the registry's v2 API) with Docker's token authentication. Rules:

- Nothing is believed but digests: a manifest that was asked for by digest has that digest, and the image is what its manifest says.
- TLS, but for registries that the settings name. A login goes to the registry's own token server alone, and never with a redirect.
- An image is one layer. Of an index the manifest for the machine's architecture is taken, and of these the best kind of disk.
- A container is told from a disk by its manifest: its configuration is one of a container's, and its layers are archives.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from metald.errors import ImageError
from metald.images.request import LENGTHS, ImageRequest

_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_ACCEPT = ", ".join((*_INDEXES, *_MANIFESTS))
_CONTAINERS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
"""Media types of the configuration of something that can be run (OCI image specification 1.1, manifest)."""

_ARCHIVES = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)"
)
"""Media types of layers that make up a root file system."""

_LARGEST = 4 << 20
"""Bytes of the largest manifest (OCI Distribution: registries must take 4 MiB)."""

_LARGEST_TOKEN = 64 << 10
_DISKS = ("qcow2", "qemu", "raw", "applehv", "")
"""What the annotation `disktype` may say, the best first: what is fetched is converted here, so the smaller is the better."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64el": "ppc64le"}
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is.

    Attributes:
        host: with its port, as it was written.
        name: the repository.
        reference: a tag, or a digest, which wins.
    """

    host: str
    name: str
    reference: str

    @property
    def digest(self) -> str:
        """The digest that was asked for; empty when it was a tag."""
        return self.reference if ":" in self.reference else ""


def parse(url: str) -> Reference:
    """Read an `oci://` URL.

    Raises:
        ImageError: says what is wrong.
    """
    parts = urlsplit(url)
    path, at, digest = parts.path.removeprefix("/").partition("@")
    name, colon, tag = path.partition(":")
    good = parts.scheme == "oci" and parts.hostname and not parts.username and _NAME.fullmatch(name) and not (parts.query or parts.fragment)
    if not good or (colon and not _TAG.fullmatch(tag)) or (at and not _is_digest(digest)):
        raise ImageError(f"{url} is no image of a registry.", remedy="Write oci://host/name:tag or oci://host/name@sha256:DIGEST.")
    return Reference(parts.netloc, name, digest or tag or "latest")


def _is_digest(text: object) -> bool:
    if not isinstance(text, str):
        return False
    algorithm, _, digits = text.partition(":")
    return len(digits) == LENGTHS.get(algorithm, -1) and re.fullmatch(r"[0-9a-f]+", digits) is not None


def login_of(file: str, host: str) -> tuple[str, str] | None:
    """User and password of a registry in a file that `docker login` wrote. Blocks.

    Raises:
        ImageError: the file cannot be read or is of another kind.
    """
    if not file:
        return None
    try:
        entries = json.loads(Path(file).read_text()).get("auths", {})
        given = entries.get(host) or entries.get(f"https://{host}") or {}
        if "auth" not in given:
            return None
        user, _, password = base64.b64decode(given["auth"], validate=True).decode().partition(":")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImageError(
            f"The logins of registries in {file} cannot be used: {error}.", remedy="Check images.registry_auth_file."
        ) from None
    return user, password


class Registry:
    """One registry, for one image.

    Args:
        session: deadlines included.
        place: which image.
        login: user and password, for whoever asks for them.
        plain: the registries that are spoken to without TLS.
    """

    def __init__(self, session: aiohttp.ClientSession, place: Reference, login: tuple[str, str] | None, plain: Collection[str]) -> None:
        self._session = session
        self._place = place
        self._login = login
        self._is_plain = place.host in plain
        self._shown = f"oci://{place.host}/{place.name}"
        self.authorization = ""
        """The value of the header `Authorization` that the registry last asked for."""

    def url(self, kind: str, reference: str) -> str:
        """Where a manifest or blob is."""
        return f"{'http' if self._is_plain else 'https'}://{self._place.host}/v2/{self._place.name}/{kind}/{reference}"

    async def manifest(self, reference: str) -> dict[str, Any]:
        """A manifest or an index, its digest checked when the reference is one.

        Raises:
            ImageError: the registry refuses, or what it sends is not what was asked for.
        """
        for again in (True, False):
            headers = {"Accept": _ACCEPT} | ({"Authorization": self.authorization} if self.authorization else {})
            async with self._session.get(self.url("manifests", reference), headers=headers, allow_redirects=False) as answer:
                if answer.status == 401 and again:
                    await self._authenticate(answer.headers.get("WWW-Authenticate", ""))
                    continue
                self._check_status(answer, reference)
                data = await _body(answer, _LARGEST, self._shown)
                kind = answer.content_type
                break
        return self._read(reference, data, kind)

    def _check_status(self, answer: aiohttp.ClientResponse, reference: str) -> None:
        if answer.status == 200:
            return
        if answer.status >= 500 or answer.status == 429:
            raise aiohttp.ClientPayloadError(f"the registry answered {answer.status} {answer.reason}")
        login = "Set instance_info/image_pull_secret to USER:PASSWORD." if not self._login else "Its login was refused."
        remedy = {404: "Check the name and the tag.", 401: login, 403: login}
        raise ImageError(
            f"The image {self._shown} cannot be fetched: the registry answered {answer.status} {answer.reason} for {reference}.",
            remedy=remedy.get(answer.status, ""),
        )

    def _read(self, reference: str, data: bytes, kind: str) -> dict[str, Any]:
        if ":" in reference:
            algorithm, _, digits = reference.partition(":")
            if hashlib.new(algorithm, data).hexdigest() != digits:
                raise ImageError(f"The registry sent another manifest for {self._shown} than {reference}.", remedy="Do not trust it.")
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ImageError(f"The registry's manifest of {self._shown} is no JSON object.")
        told = found.get("mediaType", kind)
        if told not in (*_MANIFESTS, *_INDEXES):
            raise ImageError(f"The registry's manifest of {self._shown} is of an unknown kind ({str(told)[:80]}).")
        return found | {"mediaType": told}

    async def _authenticate(self, challenge: str) -> None:
        """Get what the registry asks for (RFC 9110, 11.6.1; Docker's token authentication)."""
        scheme, _, rest = challenge.partition(" ")
        basic = "Basic " + base64.b64encode(":".join(self._login).encode()).decode() if self._login else ""
        if scheme.lower() == "basic":
            if not basic:
                raise ImageError(
                    f"The registry of {self._shown} wants a login.", remedy="Set instance_info/image_pull_secret to USER:PASSWORD."
                )
            self.authorization = basic
            return
        parameters = dict(_PARAMETER.findall(rest))
        realm = parameters.get("realm", "")
        if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://") if self._is_plain else "https://"):
            raise ImageError(f"The registry of {self._shown} asks for a login in an unknown or unsafe way.")
        asked = {"scope": f"repository:{self._place.name}:pull"}
        if "service" in parameters:
            asked["service"] = parameters["service"]
        separator = "&" if urlsplit(realm).query else "?"
        headers = {"Authorization": basic} if basic else {}
        async with self._session.get(f"{realm}{separator}{urlencode(asked)}", headers=headers, allow_redirects=False) as answer:
            if answer.status >= 500 or answer.status == 429:
                raise aiohttp.ClientPayloadError(f"the token server answered {answer.status} {answer.reason}")
            if answer.status != 200:
                raise ImageError(
                    f"The registry of {self._shown} gives no token: its token server answered {answer.status} {answer.reason}.",
                    remedy="Check instance_info/image_pull_secret or images.registry_auth_file.",
                )
            data = await _body(answer, _LARGEST_TOKEN, self._shown)
        try:
            told = json.loads(data)
            token = told.get("token") or told.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ImageError(f"The token server of {self._shown} sent no token.")
        self.authorization = f"Bearer {token}"


async def _body(answer: aiohttp.ClientResponse, limit: int, shown: str) -> bytes:
    data = bytearray()
    async for chunk in answer.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise ImageError(f"The registry of {shown} sent more than {limit} bytes.")
    return bytes(data)


def choose(index: Mapping[str, Any], architecture: str, shown: str) -> str:
    """The digest of the manifest of an index that fits a machine.

    Args:
        architecture: as in `properties/cpu_arch`; empty for any.

    Raises:
        ImageError: none fits; names those that there are.
    """
    wanted = _ARCHITECTURES.get(architecture, architecture)
    listed = [one for one in index.get("manifests") or [] if isinstance(one, dict) and _is_digest(one.get("digest"))]
    fitting: list[tuple[int, str]] = []
    seen: list[str] = []
    for one in listed:
        platform, notes = one.get("platform") or {}, one.get("annotations") or {}
        named = str(platform.get("architecture") or "") if isinstance(platform, dict) else ""
        disk = str(notes.get("disktype") or "") if isinstance(notes, dict) else ""
        seen.append(" ".join(filter(None, (named or "any architecture", disk))))
        if disk in _DISKS and (not wanted or not named or _ARCHITECTURES.get(named, named) == wanted):
            fitting.append((_DISKS.index(disk), one["digest"]))
    if not fitting:
        raise ImageError(
            f"The index of {shown} has no disk image for {architecture or 'any machine'}; it has {'; '.join(seen) or 'none'}.",
            remedy="Check properties/cpu_arch of the node, and the tag.",
        )
    return min(fitting, key=lambda one: one[0])[1]


def layer(manifest: Mapping[str, Any], shown: str) -> tuple[str, int]:
    """Digest and size of the only layer of a manifest.

    Raises:
        ImageError: it has none, or several.
    """
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        count = len(layers) if isinstance(layers, list) else 0
        raise ImageError(
            f"The image {shown} has {count} layers: it is a container and no disk image.",
            remedy="A disk image is one layer. Containers are installed by the deploy interface bootc.",
        )
    only = layers[0]
    size = only.get("size") if isinstance(only, dict) else None
    if not _is_digest(only.get("digest") if isinstance(only, dict) else None) or not isinstance(size, int) or size <= 0:
        raise ImageError(f"The manifest of {shown} does not say what its layer is.")
    return only["digest"], size


def is_container(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is that of a container, such as bootc installs, and not that of an artifact that holds a disk."""
    config, layers = manifest.get("config"), manifest.get("layers")
    if manifest.get("artifactType") or not isinstance(config, dict) or config.get("mediaType") not in _CONTAINERS:
        return False
    kinds = [str(one.get("mediaType")) for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []
    return all(_ARCHIVES.match(kind) for kind in kinds)


async def _chosen(
    request: ImageRequest, session: aiohttp.ClientSession, auth_file: str, plain: Collection[str]
) -> tuple[Registry, Any, bool]:
    """The registry, the manifest for the machine, and whether an index says what kind of disk it leads to."""
    place = parse(request.url)
    login = request.login or await asyncio.to_thread(login_of, auth_file, place.host)
    registry = Registry(session, place, login, plain)
    manifest, told = await registry.manifest(place.reference), False
    if manifest["mediaType"] in _INDEXES:
        digest = choose(manifest, request.architecture, request.shown)
        notes = next(one.get("annotations") for one in manifest["manifests"] if isinstance(one, dict) and one.get("digest") == digest)
        told = isinstance(notes, dict) and bool(notes.get("disktype"))
        manifest = await registry.manifest(digest)
        if manifest["mediaType"] in _INDEXES:
            raise ImageError(f"The index of {request.shown} leads to another index.")
    return registry, manifest, told


async def holds_container(request: ImageRequest, session: aiohttp.ClientSession, auth_file: str, plain: Collection[str]) -> bool:
    """Whether what a registry has under a name is a container and no disk image; where an index has both, it is a disk image.

    Raises:
        ImageError: names what is wrong.
        aiohttp.ClientError, TimeoutError: the registry cannot be talked to, or not now.
    """
    _, manifest, told = await _chosen(request, session, auth_file, plain)
    return not told and is_container(manifest)


async def resolve(request: ImageRequest, session: aiohttp.ClientSession, auth_file: str, plain: Collection[str]) -> ImageRequest:
    """What to fetch over HTTP for an image of a registry: the blob's URL, its digest, and the authorization for it.

    Raises:
        ImageError: names what is wrong.
        aiohttp.ClientError, TimeoutError: the registry cannot be talked to, or not now.
    """
    registry, manifest, _ = await _chosen(request, session, auth_file, plain)
    digest, _ = layer(manifest, request.shown)
    algorithm, _, digits = digest.partition(":")
    if request.digest and (request.algorithm, request.digest) != (algorithm, digits):
        raise ImageError(
            f"The image {request.shown} has the digest {digest}, and {request.algorithm}:{request.digest} is expected.",
            remedy="Check instance_info/image_checksum, or leave it out: the registry's manifest has the digest.",
        )
    url, authorization = registry.url("blobs", digest), registry.authorization
    return replace(request, url=url, algorithm=algorithm, digest=digits, authorization=authorization, origin=request)
