"""The image cache: each image is fetched, verified and converted once, however many machines wait for it.

    raw/SHA512          raw disks by the digest of their bytes
    index/KEY.json      which raw disk a request led to
    partial/KEY*        what is being fetched; taken up again after a crash
    holds/NODE          the digest of the raw disk that a node's deployment needs
    drives/NODE         the node's config drive

Rules: a raw disk is complete and on the medium before it gets its name. What a deployment holds is never evicted; the
least recently used goes first, and what nobody used for long goes by itself. Whatever blocks runs in a thread. A failed
download leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from metald.config import Images
from metald.errors import ImageError, NotAllowed
from metald.images import confine
from metald.images.fetcher import Fetcher, Made
from metald.images.request import ImageRequest
from metald.images.shelf import Shelf
from metald.images.sink import digest_file
from metald.images.sources import Progress, file_identity, open_allowed
from metald.model import Node

_log = logging.getLogger(__name__)

_REST = 50
"""How many times as long as a look for old images took nobody looks again."""


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
    resolved: ImageRequest | None = None
    """What the first of those who wait was told by the registry or the checksum file."""

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
        self._fetcher = Fetcher(settings)
        self.conversions, self.downloads = self._fetcher.conversions, self._fetcher.downloads
        self._changed = asyncio.Event()

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
        with self._full_disk_is_an_image_error(request.shown):
            request = await self._resolved(request, progress)
            key = await self._key(request)
            async with self._joined(key, progress) as flight:
                found = await asyncio.to_thread(self._known, key, holder)
                if found is None:
                    found = await self._make(request, key, flight, holder)
        self._changed.set()
        return found

    async def holds_container(self, request: ImageRequest) -> bool:
        """Whether an image of a registry (`oci://`) is a container and no disk image.

        Raises:
            ImageError: the registry cannot be reached, or does not tell of the image.
        """
        return await self._fetcher.holds_container(request)

    async def _resolved(self, request: ImageRequest, progress: Progress) -> ImageRequest:
        """The request as registry or checksum file complete it; who asks for the same meanwhile waits for one answer."""
        if not request.checksum_url and not request.url.startswith("oci:"):
            return request
        told = (request.url, request.checksum_url, request.login, request.authorization, request.architecture, request.digest)
        async with self._joined(f"resolve {told!r}", progress) as flight:
            if flight.resolved is None:
                flight.resolved = await self._fetcher.resolve(request)
            return flight.resolved

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
        """The raw disk that a request led to before, if it is still here and of a kind that is still permitted."""
        try:
            entry = msgspec.json.decode(self._shelf.index(key).read_bytes(), type=_Entry)
        except (OSError, msgspec.MsgspecError):
            return None
        if not self._fetcher.permits(entry.format) or not self._shelf.take(entry.sha512, entry.size, holder):
            return None
        return CachedImage(path=self._shelf.raw(entry.sha512), size=entry.size, sha512=entry.sha512, format=entry.format)

    async def _make(self, request: ImageRequest, key: str, flight: _Flight, holder: str) -> CachedImage:
        async def room(size: int) -> None:
            await asyncio.to_thread(self._shelf.make_room, key, size, request.shown)

        try:
            made = await self._fetcher.make(request, self._shelf.partial(key), room, flight.show)
            return await asyncio.to_thread(self._install, key, made, holder)
        except asyncio.CancelledError:
            raise  # what was fetched stays for the next try
        except BaseException:
            await asyncio.to_thread(self._shelf.discard, key)
            raise
        finally:
            self._shelf.reserved.pop(key, None)

    def _install(self, key: str, made: Made, holder: str) -> CachedImage:
        target = self._shelf.install(made.path, made.sha512, holder)
        entry = _Entry(sha512=made.sha512, size=made.size, format=made.format)
        self._shelf.write(self._shelf.index(key), msgspec.json.encode(entry))
        self._shelf.discard(key)
        return CachedImage(path=target, size=made.size, sha512=made.sha512, format=made.format)

    async def run(self) -> None:
        """Remove images that nobody used for `images.cache_age` seconds, each when its time has come. Runs for ever."""
        for part in confine.missing():
            _log.warning("the programs that convert images run without %s", part)
        age = self._settings.cache_age
        if not age:
            return
        while True:
            self._changed.clear()
            begun = time.monotonic()
            due = await asyncio.to_thread(self._shelf.drop_old, age)
            took = time.monotonic() - begun
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(due - time.time(), 1.0)):
                    await self._changed.wait()
            # a look reads the note of every deployment that holds an image, and each deployment wants one twice
            await asyncio.sleep(_REST * took)

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
        self._changed.set()


class _Entry(msgspec.Struct, frozen=True):
    sha512: str
    size: int
    format: str
