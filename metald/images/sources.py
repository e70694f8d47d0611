"""Where images come from: `http(s)://` and `file://`, both with limits.

- HTTP: at most five redirects, a deadline without a byte and one in all, no compression, broken transfers go on where
  they stopped as long as the server proves that the resource is the same (`If-Range`).
- Files: only below the allowed roots, after symbolic links were resolved, and only regular files.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import aiohttp

from metald.errors import ImageError, NotAllowed
from metald.images.request import find_digest, shown_url
from metald.images.sink import Sink

Progress = Callable[..., None]
Room = Callable[[int], Any]
"""Called with the size of the image as soon as it is known; awaits room for it, or raises."""

_CHUNK = 4 << 20
_TRIES = 4
RETRY_DELAY = 0.2
"""Seconds before the second try; four and nine times as long before the others."""

_TOTAL = 6 * 3600.0
_CHECKSUM_FILE = 1 << 20
_REDIRECTS = 5


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
        ImageError: it is missing or no regular file.
        NotAllowed: it lies outside the allowed roots.
    """
    file, size = await asyncio.to_thread(open_allowed, url, roots)
    try:
        await room(size)
        meter = Meter(show, "Copying the image", size)
        await asyncio.to_thread(sink.open, resume=False)
        while await asyncio.to_thread(sink.copy, file, _CHUNK):
            meter.at(sink.size)
    finally:
        file.close()


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


class Download:
    """One HTTP download into a sink, with its notes beside the partial file.

    Args:
        notes: a file that remembers what the server said of the resource, so that a later process may go on.
    """

    def __init__(self, url: str, sink: Sink, notes: Path, timeout: float, room: Room, show: Progress) -> None:
        self._url = url
        self._shown = shown_url(url)
        self._sink = sink
        self._notes = notes
        self._timeout = timeout
        self._room = room
        self._meter = Meter(show, "Downloading the image")
        self._validator = ""

    async def run(self) -> None:
        """Fetch all of it.

        Raises:
            ImageError: the server refused, went silent, or could not be reached in four tries.
        """
        self._validator = await asyncio.to_thread(self._remembered)
        await asyncio.to_thread(self._sink.open, resume=bool(self._validator))
        async with client(self._timeout) as session:
            for left in reversed(range(_TRIES)):
                try:
                    await self._try(session)
                except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                    if not left or isinstance(error, aiohttp.TooManyRedirects):
                        raise unreachable(self._shown, error, self._timeout) from None
                    await asyncio.sleep(RETRY_DELAY * (_TRIES - left) ** 2)
                else:
                    return

    async def _try(self, session: aiohttp.ClientSession) -> None:
        headers = {"Accept-Encoding": "identity"}
        if self._sink.size and self._validator:
            headers |= {"Range": f"bytes={self._sink.size}-", "If-Range": self._validator}
        async with session.get(self._url, headers=headers, max_redirects=_REDIRECTS) as response:
            if response.status == 416 and self._sink.size:
                return  # there is nothing behind what we have
            check_status(response, self._shown)
            if response.status != 206 or not _continues(response, self._sink.size):
                await asyncio.to_thread(self._sink.restart)
            length = response.content_length
            self._meter.total = self._sink.size + length if length is not None else None
            await self._room(self._meter.total or 0)
            self._validator = _validator(response)
            await asyncio.to_thread(self._remember)
            await self._receive(response)
        if self._meter.total is not None and self._sink.size != self._meter.total:
            raise aiohttp.ClientPayloadError("the connection was closed early")

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        gathered = bytearray()
        try:
            async for chunk in response.content.iter_any():
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    taken, gathered = gathered, bytearray()
                    await self._store(taken)
        finally:
            if gathered:
                await self._store(gathered)

    async def _store(self, data: bytearray) -> None:
        await asyncio.to_thread(self._sink.write, data)
        if self._meter.total is None:
            await self._room(self._sink.size)
        self._meter.at(self._sink.size)

    def _remember(self) -> None:
        self._notes.write_text(json.dumps({"url": self._url, "validator": self._validator}))

    def _remembered(self) -> str:
        try:
            notes = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return ""
        same = isinstance(notes, dict) and notes.get("url") == self._url
        return str(notes.get("validator") or "") if same else ""


def _validator(response: aiohttp.ClientResponse) -> str:
    """What proves later that the resource is the same: a strong ETag, else the time it was changed (RFC 9110, 13.1.5)."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _continues(response: aiohttp.ClientResponse, at: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {at}-")


def client(timeout: float) -> aiohttp.ClientSession:
    """A session whose requests end: `timeout` seconds without a byte, or six hours in all."""
    limits = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=min(timeout, 30.0), sock_read=timeout)
    return aiohttp.ClientSession(timeout=limits, auto_decompress=False, requote_redirect_url=False)


def check_status(response: aiohttp.ClientResponse, shown: str) -> None:
    """Raises ImageError unless the answer brings the resource; server errors raise ClientError, so that they are tried again."""
    if response.status in (200, 206):
        return
    if response.status >= 500 or response.status == 429:
        raise aiohttp.ClientPayloadError(f"the server answered {response.status} {response.reason}")
    remedy = {404: "Check instance_info/image_source.", 401: "The server wants a login.", 403: "The server forbids it."}
    raise ImageError(
        f"The image {shown} cannot be fetched: the server answered {response.status} {response.reason}.",
        remedy=remedy.get(response.status, ""),
    )


def unreachable(shown: str, error: BaseException, timeout: float) -> ImageError:
    """The error for a server that cannot be talked to."""
    if isinstance(error, aiohttp.TooManyRedirects):
        return ImageError(f"The image {shown} cannot be fetched: more than {_REDIRECTS} redirects.")
    why = f"no byte came for {timeout:g} seconds" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return ImageError(f"The image {shown} cannot be fetched: {why}.", remedy="Check that the image server is up and reachable.")


async def fetch_small(url: str, timeout: float, limit: int) -> bytes:
    """A small file over HTTP: a checksum file or a config drive.

    Raises:
        ImageError: it cannot be fetched, or is larger than `limit` bytes.
    """
    shown = shown_url(url)
    try:
        async with client(timeout) as session, session.get(url, max_redirects=_REDIRECTS) as response:
            check_status(response, shown)
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise ImageError(f"The file {shown} is larger than {limit} bytes.")
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise unreachable(shown, error, timeout) from None
    return bytes(data)


async def fetch_digest(checksum_url: str, image_url: str, timeout: float) -> tuple[str, str]:
    """Algorithm and digest of an image from a checksum file.

    Raises:
        ImageError: the file cannot be fetched or does not tell of the image.
    """
    text = (await fetch_small(checksum_url, timeout, _CHECKSUM_FILE)).decode("utf-8", "replace")
    name = unquote(urlsplit(image_url).path).rpartition("/")[2]
    found = find_digest(text, name)
    if found is None:
        raise ImageError(
            f"The checksum file {shown_url(checksum_url)} has no SHA-256 or SHA-512 of {name}.",
            remedy="Check instance_info/image_checksum.",
        )
    return found
