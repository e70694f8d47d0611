"""The image cache: each image is fetched, verified and converted once, however many machines wait for it.

    raw/SHA512          raw disks by the digest of their bytes
    index/KEY.json      which raw disk a request led to
    partial/KEY*        what is being fetched; taken up again after a crash
    holds/NODE          the digest of the raw disk that a node's deployment needs
    drives/NODE         the node's config drive

Rules: a raw disk is complete and on the medium before it gets its name. What a deployment holds is never evicted; the
least recently used goes first. Whatever blocks runs in a thread. A failed download leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from metald.config import Images
from metald.errors import ImageError, NotAllowed
from metald.images.convert import convert
from metald.images.inspector import Format, inspect
from metald.images.request import ImageRequest
from metald.images.shelf import Shelf
from metald.images.sink import Sink, digest_file
from metald.images.sources import Download, Progress, fetch_digest, file_identity, from_file, open_allowed
from metald.limits import Gate
from metald.model import Node


class CachedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A raw disk in the cache."""

    path: Path
    size: int
    sha512: str
    format: str
    """What the image was: `gpt`, `mbr`, `iso` or `raw`, and `qcow2` where it was converted."""


def nothing(**_: object) -> None:
    """Progress that nobody looks at."""


@dataclass(slots=True)
class _Flight:
    """One fetch that any number of deployments wait for."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shows: list[Progress] = field(default_factory=list)

    def show(self, **fields: object) -> None:
        for one in self.shows:
            one(**fields)


class ImageCache:
    """See the module.

    Args:
        settings: the section `images`.
        state_dir: where the cache lies when the settings name no directory.
    """

    def __init__(self, settings: Images, state_dir: Path) -> None:
        self._settings = settings
        self.directory = Path(settings.cache_dir) if settings.cache_dir else state_dir / "images"
        self._shelf = Shelf(self.directory, settings.cache_size)
        self._flights: dict[str, _Flight] = {}
        conversions = settings.conversions or max(1, (os.cpu_count() or 2) // 2)
        self.conversions = Gate(conversions, "the conversion of an image", "images.conversions")
        self.downloads = Gate(settings.downloads, "the download of an image", "images.downloads")

    async def fetch(self, request: ImageRequest, progress: Progress = nothing, *, holder: str = "") -> CachedImage:
        """Bring an image into the cache, or find it there.

        Args:
            request: which image.
            progress: called with `bytes`, `total`, `rate`, `eta` and `message` while it is fetched.
            holder: UUID of the node whose deployment needs it; the image stays until `release`.

        Raises:
            ImageError: it cannot be fetched, is not what was declared or has the wrong checksum, or there is no room.
            NotAllowed: a file outside the allowed directories.
        """
        if request.checksum_url:
            algorithm, digest = await fetch_digest(request.checksum_url, request.url, self._settings.download_timeout)
            request = replace(request, algorithm=algorithm, digest=digest)
        with self._full_disk_is_an_image_error(request.shown):
            key = await self._key(request)
            async with self._joined(key, progress) as flight:
                found = await asyncio.to_thread(self._known, key, holder)
                return found or await self._make(request, key, flight, holder)

    async def _key(self, request: ImageRequest) -> str:
        identity = f"{request.algorithm}:{request.digest}"
        if not request.digest:
            identity = await asyncio.to_thread(file_identity, request.url, self._settings.file_roots)
        return hashlib.sha256(f"{identity}:{request.disk_format or ''}".encode()).hexdigest()

    @asynccontextmanager
    async def _joined(self, key: str, progress: Progress) -> AsyncIterator[_Flight]:
        flight = self._flights.setdefault(key, _Flight())
        flight.shows.append(progress)
        try:
            async with flight.lock:
                yield flight
        finally:
            flight.shows.remove(progress)
            if not flight.shows:
                self._flights.pop(key, None)

    def _known(self, key: str, holder: str) -> CachedImage | None:
        """The raw disk that a request led to before, if it is still here."""
        try:
            entry = msgspec.json.decode(self._shelf.index(key).read_bytes(), type=_Entry)
            path = self._shelf.raw(entry.sha512)
            good = path.stat().st_size == entry.size
        except (OSError, msgspec.MsgspecError):
            return None
        if not good:
            return None
        self._shelf.hold(holder, entry.sha512)
        os.utime(path)
        return CachedImage(path=path, size=entry.size, sha512=entry.sha512, format=entry.format)

    async def _make(self, request: ImageRequest, key: str, flight: _Flight, holder: str) -> CachedImage:
        partial = self._shelf.partial(key)
        try:
            digest = await self._bring(request, partial, flight)
            seen = await asyncio.to_thread(self._inspect, partial, request)
            if not seen.is_disk:
                partial, digest = await self._convert(request, partial, seen, flight)
            return await asyncio.to_thread(self._install, key, partial, digest, seen, holder)
        except asyncio.CancelledError:
            raise  # what was fetched stays for the next try
        except BaseException:
            await asyncio.to_thread(self._shelf.discard, key)
            raise
        finally:
            self._shelf.reserved.pop(key, None)

    async def _bring(self, request: ImageRequest, partial: Path, flight: _Flight) -> str:
        """Fetch to the partial file and check the checksum. Returns its SHA-512."""
        algorithms = frozenset({"sha512", request.algorithm} - {None})
        sink = Sink(partial, frozenset(name for name in algorithms if name))

        async def room(size: int) -> None:
            await asyncio.to_thread(self._shelf.make_room, partial.name, size, request.shown)

        try:
            if request.url.startswith("file:"):
                await from_file(request.url, self._settings.file_roots, sink, room, flight.show)
            else:
                notes = partial.with_suffix(".json")
                async with self.downloads:
                    await Download(request.url, sink, notes, self._settings.download_timeout, room, flight.show).run()
            digests = await asyncio.to_thread(sink.finish)
        finally:
            sink.close()
        if request.algorithm and digests[request.algorithm] != request.digest:
            raise ImageError(
                f"The image {request.shown} has the wrong checksum: {request.algorithm} is {digests[request.algorithm]}, "
                f"expected {request.digest}.",
                remedy="The image or instance_info's checksum is not the right one.",
            )
        return digests["sha512"]

    def _inspect(self, partial: Path, request: ImageRequest) -> Format:
        with partial.open("rb") as file:
            return inspect(file, request.shown, declared=request.disk_format, largest=self._settings.cache_size)

    async def _convert(self, request: ImageRequest, partial: Path, seen: Format, flight: _Flight) -> tuple[Path, str]:
        raw = partial.with_suffix(".raw")
        flight.show(message="Waiting for a conversion to end" if self.conversions.full else "Converting the image")
        async with self.conversions:
            await asyncio.to_thread(self._shelf.make_room, partial.name, seen.size, request.shown)
            flight.show(message="Converting the image")
            await convert(partial, raw, size=seen.size, shown=request.shown)
            flight.show(message="Computing the checksum of the converted image")
            digest = await asyncio.to_thread(digest_file, raw, "sha512")
        await asyncio.to_thread(partial.unlink)
        return raw, digest

    def _install(self, key: str, partial: Path, sha512: str, seen: Format, holder: str) -> CachedImage:
        self._shelf.hold(holder, sha512)
        target = self._shelf.raw(sha512)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        entry = _Entry(sha512=sha512, size=seen.size, format=seen.name)
        self._shelf.write(self._shelf.index(key), msgspec.json.encode(entry))
        self._shelf.discard(key)
        return CachedImage(path=target, size=seen.size, sha512=sha512, format=seen.name)

    @contextmanager
    def _full_disk_is_an_image_error(self, shown: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ImageError(f"The image cache {self.directory} cannot be used: {error.strerror or error}.") from error
            raise ImageError(
                f"The disk of the image cache {self.directory} is full; the image {shown} does not fit.",
                remedy="Free space there, or set images.cache_dir to a larger file system.",
            ) from error

    async def drop_if_damaged(self, image: CachedImage) -> bool:
        """Compare a raw disk with its name, and remove it when it is not what it says. Returns whether it was removed."""
        with suppress(FileNotFoundError):
            if await asyncio.to_thread(digest_file, image.path, "sha512") == image.sha512:
                return False
            await asyncio.to_thread(image.path.unlink)
        return True

    async def store_config_drive(self, node_uuid: str, data: bytes) -> CachedImage:
        """Keep a node's config drive for its ramdisk to fetch.

        Raises:
            ImageError: the file system is full.
        """
        with self._full_disk_is_an_image_error("config drive"):
            path = self._shelf.drive(node_uuid)
            await asyncio.to_thread(self._shelf.write, path, data)
        return CachedImage(path=path, size=len(data), sha512=hashlib.sha512(data).hexdigest(), format="iso")

    def image_for(self, node: Node, what: str) -> Path | None:
        """The file that the node's present boot may fetch as `image`, `configdrive`, `deploy_kernel`, `deploy_ramdisk`,
        or its instance as `boot_iso`, `instance_kernel`, `instance_ramdisk`, `instance_stage2`.

        None when there is none. A few looks at the file system; the boot HTTP server calls it on the loop.
        """
        if what.startswith("deploy_"):
            return self._boot_file(node, "boot_agent", what.removeprefix("deploy_"))
        if what.startswith("instance_") or what == "boot_iso":
            return self._boot_file(node, "boot_instance", what.removeprefix("instance_").removeprefix("boot_"))
        if what == "image":
            deploying = node.driver_internal_info.get("deploy_image")
            sha512 = deploying.get("sha512") if isinstance(deploying, dict) else None
            path = self._shelf.raw(sha512) if isinstance(sha512, str) else None
        else:
            path = self._shelf.drive(node.uuid)
        return path if path is not None and path.is_file() else None

    def _boot_file(self, node: Node, key: str, name: str) -> Path | None:
        """The kernel, ramdisk or ISO image that the node names as a `file://` URL below an allowed directory."""
        files = node.driver_internal_info.get(key)
        url = files.get(name) if isinstance(files, dict) else None
        if not isinstance(url, str) or not url.startswith("file:"):
            return None
        try:
            file, _ = open_allowed(url, self._settings.file_roots)
        except (ImageError, NotAllowed):
            return None
        with file:
            return Path(f"/proc/self/fd/{file.fileno()}").readlink()

    async def release(self, node_uuid: str) -> None:
        """The node's deployment needs its image and its config drive no more."""
        with suppress(OSError):
            await asyncio.to_thread(self._shelf.release, node_uuid)


class _Entry(msgspec.Struct, frozen=True):
    sha512: str
    size: int
    format: str
