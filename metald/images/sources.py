"""Where images come from: `http(s)://` and `file://`, both with limits.

- HTTP: at most five redirects, a deadline without a byte and one in all, no compression. A login stays with the server it is for.
- Files: only below the allowed roots, after symbolic links were resolved, and only regular files.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp

from metald.errors import ImageError, NotAllowed
from metald.images.request import ImageRequest, find_digest, shown_url
from metald.images.sink import Sink

T = TypeVar("T")

Progress = Callable[..., None]
Room = Callable[[int], Any]
"""Called with the size of the image as soon as it is known; awaits room for it, or raises."""

CHUNK = 4 << 20
"""Bytes that are gathered before they are written."""

_TRIES = 4
REDIRECTS = 5
RETRY_DELAY = 0.2
"""Seconds before the second try; four and nine times as long before the others."""

_TOTAL = 6 * 3600.0
_CHECKSUM_FILE = 1 << 20


class LoginError(ImageError):
    """The image's server wants a login, or another one."""


class Meter:
    """Turns byte counts into progress: bytes, total, rate (bytes a second) and eta (seconds), four times a second at most."""

    def __init__(self, show: Progress, message: str, total: int | None = None) -> None:
        self._show = show
        self._message = message
        self._began = time.monotonic()
        self._shown = 0.0
        self.total = total

    def at(self, done: int) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if now - self._shown < 0.25 and done != self.total:
            return
        self._shown = now
        rate = done / max(now - self._began, 1e-3)
        eta = round((self.total - done) / rate, 1) if self.total and rate else None
        self._show(bytes=done, total=self.total, rate=int(rate), eta=eta, message=self._message)


async def from_file(url: str, roots: Sequence[str], sink: Sink, room: Room, show: Progress) -> None:
    """Copy a `file://` image.

    Raises:
        ImageError: it is missing, no regular file, or changes meanwhile.
        NotAllowed: it lies outside the allowed roots.
    """
    file, size = await asyncio.to_thread(open_allowed, url, roots)
    try:
        before = os.fstat(file.fileno())
        await room(size)
        meter = Meter(show, "Copying the image", size)
        await asyncio.to_thread(sink.open, resume=False)
        while sink.size <= size:
            if not await asyncio.to_thread(sink.copy, file, CHUNK):
                break
            meter.at(sink.size)
        after = os.fstat(file.fileno())
    finally:
        file.close()
    if sink.size != size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise ImageError(f"The image {shown_url(url)} was changed while it was copied.", remedy="Deploy again once it is whole.")


def open_allowed(url: str, roots: Sequence[str]) -> tuple[BinaryIO, int]:
    """Open a `file://` URL below one of the roots. Blocks.

    Raises:
        ImageError: it is missing or no regular file.
        NotAllowed: it lies outside the allowed roots, symbolic links included.
    """
    path = Path(unquote(urlsplit(url).path))
    allowed = [Path(root).resolve() for root in roots]
    try:
        real = path.resolve(strict=True)
        inside = any(real.is_relative_to(root) for root in allowed)
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if inside else -1
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"The image {shown_url(url)} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if descriptor < 0:
        raise NotAllowed(
            f"The image {shown_url(url)} is not below an allowed directory.",
            remedy=f"Put it below a directory of images.file_roots ({', '.join(map(str, roots)) or 'none is set'}).",
        )
    facts = os.fstat(descriptor)
    # a directory on the way may have been exchanged for a link since it was resolved
    now = Path(f"/proc/self/fd/{descriptor}").readlink()
    if not stat.S_ISREG(facts.st_mode) or not any(now.is_relative_to(root) for root in allowed):
        os.close(descriptor)
        raise ImageError(f"The image {shown_url(url)} is no regular file.")
    return os.fdopen(descriptor, "rb"), facts.st_size


def file_identity(url: str, roots: Sequence[str]) -> str:
    """What a local file is known by as long as it is not changed. Blocks. Raises like `open_allowed`."""
    file, size = open_allowed(url, roots)
    with file:
        facts = os.fstat(file.fileno())
        return f"{url}:{facts.st_dev}:{facts.st_ino}:{facts.st_mtime_ns}:{size}"


def client(timeout: float) -> aiohttp.ClientSession:
    """A session whose requests end: `timeout` seconds without a byte, or six hours in all."""
    limits = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=min(timeout, 30.0), sock_read=timeout)
    return aiohttp.ClientSession(timeout=limits, auto_decompress=False, requote_redirect_url=False)


def check_status(response: aiohttp.ClientResponse, shown: str) -> None:
    """Check that the answer brings the resource.

    Raises:
        ImageError: it does not; LoginError for want of a login.
        aiohttp.ClientError: the server is at fault, so that it is tried again.
    """
    if response.status in (200, 206):
        return
    if response.status >= 500 or response.status == 429:
        raise aiohttp.ClientPayloadError(f"the server answered {response.status} {response.reason}")
    remedy = {404: "Check instance_info/image_source.", 401: "The server wants a login.", 403: "The server forbids it."}
    kind = LoginError if response.status == 401 else ImageError
    raise kind(
        f"The image {shown} cannot be fetched: the server answered {response.status} {response.reason}.",
        remedy=remedy.get(response.status, ""),
    )


def unreachable(shown: str, error: BaseException, timeout: float) -> ImageError:
    """The error for a server that cannot be talked to."""
    if isinstance(error, aiohttp.TooManyRedirects):
        return ImageError(f"The image {shown} cannot be fetched: more than {REDIRECTS} redirects.")
    told = (str(error) or type(error).__name__).partition("\n")[0].partition("\\n")[0][:200]  # the server may have had a hand in it
    why = f"no byte came for {timeout:g} seconds" if isinstance(error, TimeoutError) else told
    return ImageError(f"The image {shown} cannot be fetched: {why}.", remedy="Check that the image server is up and reachable.")


async def tried(shown: str, timeout: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """Do something with a server, up to four times while what fails may pass.

    Raises:
        ImageError: it cannot be reached, went silent, or is at fault by its own word.
    """
    for left in reversed(range(_TRIES)):
        try:
            return await attempt()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if not left or isinstance(error, aiohttp.TooManyRedirects):
                raise unreachable(shown, error, timeout) from None
            await asyncio.sleep(RETRY_DELAY * (_TRIES - left) ** 2)
    raise AssertionError("the last try returns or raises")


def proxy_for(url: str, request: ImageRequest) -> str | None:
    """The proxy that a request goes through; None for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    for name in request.no_proxy:
        domain = name.lstrip(".")
        if name == "*" or host == domain or host.endswith(f".{domain}"):
            return None
    return request.proxies.get(parts.scheme)


async def fetch_small(url: str, timeout: float, limit: int, *, authorization: str = "", proxy: str | None = None) -> bytes:
    """A small file over HTTP: a checksum file or a config drive.

    Raises:
        ImageError: it cannot be fetched, or is larger than `limit` bytes.
    """
    shown = shown_url(url)
    try:
        headers = {"Authorization": authorization} if authorization else {}
        async with client(timeout) as session, session.get(url, headers=headers, proxy=proxy, max_redirects=REDIRECTS) as response:
            check_status(response, shown)
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise ImageError(f"The file {shown} is larger than {limit} bytes.")
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise unreachable(shown, error, timeout) from None
    return bytes(data)


async def fetch_digest(request: ImageRequest, timeout: float) -> tuple[str, str]:
    """Algorithm and digest of an image from its checksum file. The image's login is for that file too, on the same server.

    Raises:
        ImageError: the file cannot be fetched or does not tell of the image.
    """
    url = request.checksum_url or ""
    authorization = request.authorization if _origin(url) == _origin(request.url) else ""
    data = await fetch_small(url, timeout, _CHECKSUM_FILE, authorization=authorization, proxy=proxy_for(url, request))
    name = unquote(urlsplit(request.url).path).rpartition("/")[2]
    found = find_digest(data.decode("utf-8", "replace"), name)
    if found is None:
        raise ImageError(
            f"The checksum file {shown_url(url)} has no SHA-256 or SHA-512 of {name}.",
            remedy="Check instance_info/image_checksum.",
        )
    return found


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
