"""Brings one image from where it is, proves that it is what was asked for, and makes a raw disk of it.

The order is a rule: fetched, compared with its checksum, looked at, and only then given to a program that parses it. What comes out of
that program is looked at again, and must be a raw disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import aiohttp

from metald.config import Images
from metald.errors import ImageError
from metald.images.convert import convert, unpack
from metald.images.download import Download
from metald.images.formats.marks import DISKS, PACKINGS
from metald.images.inspector import Format, inspect
from metald.images.registry import holds_container, resolve
from metald.images.request import ImageRequest
from metald.images.sink import Sink, digest_file
from metald.images.sources import LoginError, Progress, client, fetch_digest, from_file, tried
from metald.limits import Gate

_STEP = 256 << 20
"""Bytes that room is made for at once while nobody knows how many will come."""

T = TypeVar("T")
_Question = Callable[[ImageRequest, aiohttp.ClientSession, str, Collection[str]], Awaitable[T]]
Room = Callable[[int], Awaitable[None]]
"""Makes room for so many bytes, all that this fetch will need; raises ImageError when there is none."""


@dataclass(frozen=True, slots=True)
class Made:
    """A raw disk, checked and complete, that has no name yet.

    Attributes:
        path: the file.
        size: bytes.
        sha512: of its content, in hex.
        format: what the image was, as `Format.name`.
    """

    path: Path
    size: int
    sha512: str
    format: str


class Fetcher:
    """See the module.

    Args:
        settings: the section `images`.
    """

    def __init__(self, settings: Images) -> None:
        self._settings = settings
        conversions = settings.conversions or max(1, (os.cpu_count() or 2) // 2)
        self.conversions = Gate(conversions, "the conversion of an image", "images.conversions")
        self.downloads = Gate(settings.downloads, "the download of an image", "images.downloads")

    def permits(self, name: str) -> bool:
        """Whether images of a format, as `Format.name`, may be deployed."""
        return name in self._settings.formats or (name in (*DISKS, *PACKINGS) and "raw" in self._settings.formats)

    async def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with a digest, and an HTTP URL in the place of a registry's: asks the checksum file or the registry.

        Raises:
            ImageError: they cannot be reached, or do not tell of the image.
        """
        if request.checksum_url:
            algorithm, digest = await fetch_digest(request, self._settings.download_timeout)
            return replace(request, algorithm=algorithm, digest=digest, checksum_url=None)
        return await self._ask_registry(request, resolve) if request.url.startswith("oci:") else request

    async def holds_container(self, request: ImageRequest) -> bool:
        """Whether an image of a registry is a container and no disk image; only its manifest is fetched.

        Raises:
            ImageError: the registry cannot be reached, or does not tell of the image.
        """
        return await self._ask_registry(request, holds_container)

    async def _ask_registry(self, request: ImageRequest, ask: _Question[T]) -> T:
        timeout = self._settings.download_timeout

        async def attempt() -> T:
            async with client(timeout) as session:
                return await ask(request, session, self._settings.registry_auth_file, self._settings.plain_registries)

        return await tried(request.shown, timeout, attempt)

    async def make(self, request: ImageRequest, partial: Path, room: Room, show: Progress) -> Made:
        """Fetch to `partial`, or beside it, and make a raw disk.

        Raises:
            ImageError: it cannot be fetched, is not what was declared or has the wrong checksum, or there is no room.
            OSError: the file system is full.
        """
        digest = await self._bring(request, partial, room, show)
        seen = await asyncio.to_thread(self._inspect, partial, request)
        if seen.is_disk:
            return Made(partial, seen.size, digest, seen.name)
        raw = partial.with_suffix(".raw")
        show(message="Waiting for a conversion to end" if self.conversions.full else "Converting the image")
        async with self.conversions:
            show(message="Unpacking the image" if seen.is_packed else "Converting the image")
            digest = await (self._unpack if seen.is_packed else self._convert)(request, partial, raw, seen, room)
            inner = await asyncio.to_thread(self._inspect, raw, request, seen.name)
        await asyncio.to_thread(partial.unlink)
        return Made(raw, inner.size, digest, seen.name)

    async def _bring(self, request: ImageRequest, partial: Path, room: Room, show: Progress) -> str:
        """Fetch to the partial file and check the checksum. Returns its SHA-512."""
        while True:
            digests, resumed = await self._copy(request, partial, room, show)
            if not request.algorithm or digests[request.algorithm] == request.digest:
                return digests["sha512"]
            await asyncio.to_thread(self._forget, partial)
            if not resumed:
                raise ImageError(
                    f"The image {request.shown} has the wrong checksum: {request.algorithm} is {digests[request.algorithm]}, "
                    f"expected {request.digest}.",
                    remedy="The image or instance_info's checksum is not the right one.",
                )
            # its pieces may be of two images, whatever the server said: once more, in one piece

    async def _copy(self, request: ImageRequest, partial: Path, room: Room, show: Progress) -> tuple[dict[str, str], bool]:
        """Copy the image. Returns its digests, and whether it came in several pieces."""
        sink = Sink(partial, frozenset({"sha512", request.algorithm or "sha512"}))
        try:
            if request.url.startswith("file:"):
                resumed = False
                await from_file(request.url, self._settings.file_roots, sink, room, show)
            else:
                async with self.downloads:
                    resumed = await self._download(request, sink, partial, room, show)
            return await asyncio.to_thread(sink.finish), resumed
        finally:
            sink.close()

    async def _download(self, request: ImageRequest, sink: Sink, partial: Path, room: Room, show: Progress) -> bool:
        """Download the image. Returns whether it came in several pieces. A registry's authorization that ran out is renewed."""
        try:
            return await Download(request, sink, _notes(partial), self._settings.download_timeout, room, show).run()
        except LoginError:
            if request.origin is None:
                raise
        sink.close()
        request = await self.resolve(request.origin)
        return await Download(request, sink, _notes(partial), self._settings.download_timeout, room, show).run()

    @staticmethod
    def _forget(partial: Path) -> None:
        for path in (partial, _notes(partial)):
            path.unlink(missing_ok=True)

    def _inspect(self, path: Path, request: ImageRequest, inside: str = "") -> Format:
        with path.open("rb") as file:
            return inspect(
                file,
                request.shown,
                declared=None if inside else request.disk_format,
                largest=self._settings.cache_size,
                permitted=self._settings.formats,
                inside=inside,
            )

    async def _convert(self, request: ImageRequest, partial: Path, raw: Path, seen: Format, room: Room) -> str:
        packed = await asyncio.to_thread(_size, partial)
        await room(packed + seen.size)
        await convert(partial, raw, kind=seen.name, size=seen.size, shown=request.shown)
        return await asyncio.to_thread(_finished, raw)

    async def _unpack(self, request: ImageRequest, partial: Path, raw: Path, seen: Format, room: Room) -> str:
        packed = await asyncio.to_thread(_size, partial)
        planned, largest = packed, self._settings.cache_size - packed

        async def grown(size: int) -> None:
            nonlocal planned
            if packed + size > planned:
                planned = min(packed + size + _STEP, packed + largest)
                await room(planned)

        sink = Sink(raw, frozenset({"sha512"}))
        try:
            await asyncio.to_thread(sink.open, resume=False)
            await unpack(partial, sink, kind=seen.name, largest=largest, shown=request.shown, grown=grown)
            digests = await asyncio.to_thread(sink.finish)
        finally:
            sink.close()
        return digests["sha512"]


def _notes(partial: Path) -> Path:
    return partial.with_suffix(".json")


def _size(path: Path) -> int:
    return path.stat().st_size


def _finished(raw: Path) -> str:
    """Bring a converted disk onto the medium. Returns its SHA-512."""
    with raw.open("rb") as file:
        os.fsync(file.fileno())
    return digest_file(raw, "sha512")
