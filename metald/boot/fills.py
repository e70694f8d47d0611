"""Boot files of other servers (kernels, ramdisks, ISO images), fetched once for all machines that ask, and kept.

    KEY          what lies at the URL, KEY being the SHA-256 of the URL
    KEY.json     its URL, and what its server said of it
    .KEY.part    what is being fetched

Whoever asks while a file is on its way reads what is there already (`Fill.reached`): two hundred machines that boot at once
cost the other server one transfer, and none of them waits for its end. A file that is there is asked for again, at most every
few seconds, with what its server said of it (RFC 9110 section 13.1); when that server cannot be reached, what is there serves.

Rules: whatever blocks runs in a thread; a file is complete before it has its name; what goes wrong is told to all who read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from io import BufferedReader, BufferedWriter
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from metald.config import Settings
from metald.errors import ImageError

_CHUNK = 1 << 20
_FRESH = 10.0
"""Seconds after which a file is asked for again: the machines of one rollout come closer to each other."""
_AT_ONCE = 16
_REDIRECTS = 5
_TOTAL = 6 * 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of another server."""

    url: str


@dataclass(eq=False, slots=True)
class Fill:
    """One file, on its way or there."""

    url: str
    path: Path
    """Where it lies; another one once it is complete."""
    size: int | None = None
    """Bytes of the whole; None until the other server, or the end, has told."""
    have: int = 0
    """Bytes that can be read."""
    complete: bool = False
    error: str = ""
    """Why it will not become complete."""
    etag: str = ""
    """What the other server calls this version of it; empty when it does not say."""
    modified: str = ""
    checked: float = 0.0
    """When its server was last asked, by the loop's clock; 0: not by this process."""
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, upto: int) -> None:
        """Return once the first `upto` bytes can be read.

        Raises:
            ImageError: they will not come.
        """
        while self.have < upto and not self.complete:
            await self._more()
        if self.have < upto:
            raise ImageError(f"{_shown(self.url)} is shorter than its server said.")

    async def finished(self) -> Path:
        """Where it lies, once all of it is there.

        Raises:
            ImageError: it will not come.
        """
        while not self.complete:
            await self._more()
        return self.path

    async def sized(self) -> int:
        """Its size, as soon as somebody knows.

        Raises:
            ImageError: it will not come.
        """
        while self.size is None:
            await self._more()
        return self.size

    async def _more(self) -> None:
        if self.error:
            raise ImageError(self.error, remedy="Check that the other server is up and has the file.")
        await self._grown.wait()

    def open(self) -> BufferedReader:
        """What is there already, to read. Blocks."""
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return self.path.open("rb")  # it got its name in between

    def grew(self) -> None:
        """Have everybody who waits look again."""
        self._grown.set()
        self._grown = asyncio.Event()


class Fills:
    """See the module.

    Args:
        directory: made when first written to.
        limit: bytes of all files that are kept; the least recently used goes first.
        timeout: seconds without a byte after which a transfer fails.
    """

    def __init__(self, directory: Path, limit: int, timeout: float) -> None:
        self._directory = directory
        self._limit = limit
        self._timeout = timeout
        self._fills: dict[str, Fill] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def open(self, url: str) -> Fill:
        """A file, as soon as its first bytes can be read.

        Args:
            url: http or https.

        Raises:
            ImageError: it cannot be fetched, and no version of it is here.
        """
        loop = asyncio.get_running_loop()
        before = self._fills.get(url)
        if before is None or before.complete:
            remembered = await asyncio.to_thread(self._remembered, url)
            if self._fills.get(url) is before and (before is None or not remembered.complete):
                self._fills[url] = remembered
        fill = self._fills[url]
        if url not in self._tasks and (not fill.complete or not fill.checked or loop.time() - fill.checked > _FRESH):
            if fill.error:
                fill = self._fills[url] = Fill(url, self._partial(url))
            self._tasks[url] = asyncio.create_task(self._fetch(fill))
        task = self._tasks.get(url)
        if task is not None:
            await self._begun(url, task)
        fill = self._fills.get(url, fill)
        if fill.error:
            raise ImageError(fill.error, remedy="Check that the other server is up and has the file.")
        return fill

    async def local(self, file: Path | Remote) -> Path:
        """Where a file lies, once all of it is here.

        Raises:
            ImageError: it cannot be fetched.
        """
        return file if isinstance(file, Path) else await (await self.open(file.url)).finished()

    async def close(self) -> None:
        """Stop fetching."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _begun(self, url: str, task: asyncio.Task[None]) -> None:
        """Until the transfer's first bytes are there, or it is known that there need be none."""
        while not task.done():
            fill = self._fills[url]
            if fill.have and not fill.complete:
                return
            grown = asyncio.ensure_future(fill._grown.wait())
            try:
                await asyncio.wait([task, grown], return_when=asyncio.FIRST_COMPLETED)
            finally:
                grown.cancel()

    async def _fetch(self, known: Fill) -> None:
        """Bring one file up to date. Failures are told by the fill."""
        url = known.url
        fill = known
        try:
            async with self._places, _session(self._timeout) as session:
                headers = {"Accept-Encoding": "identity", **(_conditions(known) if known.complete else {})}
                async with session.get(url, headers=headers, max_redirects=_REDIRECTS) as response:
                    if response.status == 304 and known.complete:
                        known.checked = asyncio.get_running_loop().time()
                        return
                    if response.status != 200:
                        raise aiohttp.ClientPayloadError(f"its server answered {response.status} {response.reason}")
                    if known.complete:
                        fill = self._fills[url] = Fill(url, self._partial(url))
                        known.grew()
                    await self._receive(fill, response)
        except (aiohttp.ClientError, TimeoutError, OSError, ImageError) as error:
            self._failed(fill, known, error)
        finally:
            if fill.error or not fill.complete:
                fill.error = fill.error or "The server stopped."
            self._tasks.pop(url, None)
            fill.grew()

    def _failed(self, fill: Fill, known: Fill, error: Exception) -> None:
        why = f"no byte came for {self._timeout:g} seconds" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        text = f"{_shown(fill.url)} cannot be fetched: {why}."
        if fill is known and known.complete:
            _log.warning("boot files: %s What is here of it serves.", text)
            known.checked = asyncio.get_running_loop().time()
            return
        fill.error = text
        if known.complete:
            self._fills[fill.url] = known
            known.checked = asyncio.get_running_loop().time()
        _log.warning("boot files: %s", text)

    async def _receive(self, fill: Fill, response: aiohttp.ClientResponse) -> None:
        fill.size = response.content_length
        fill.etag = response.headers.get("ETag", "")
        fill.modified = response.headers.get("Last-Modified", "")
        await asyncio.to_thread(self._make_room, fill.size or 0, fill)
        file = await asyncio.to_thread(self._create, fill)
        try:
            gathered = bytearray()
            async for chunk in response.content.iter_any():
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    gathered = await self._store(fill, file, gathered)
            await self._store(fill, file, gathered)
            if fill.size is not None and fill.have != fill.size:
                raise aiohttp.ClientPayloadError("the connection was closed early")
            await asyncio.to_thread(self._install, fill, file)
        finally:
            file.close()
        fill.size = fill.have
        fill.checked = asyncio.get_running_loop().time()
        fill.complete = True

    async def _store(self, fill: Fill, file: BufferedWriter, data: bytearray) -> bytearray:
        if fill.have + len(data) > self._limit:
            raise ImageError(f"it is larger than boot.cache_size ({self._limit} bytes)")
        await asyncio.to_thread(_write, file, data)
        fill.have += len(data)
        fill.grew()
        return bytearray()

    # -- the directory; all of it blocks

    def _place(self, url: str) -> Path:
        return self._directory / hashlib.sha256(url.encode()).hexdigest()

    def _partial(self, url: str) -> Path:
        place = self._place(url)
        return place.with_name(f".{place.name}.part")

    def _remembered(self, url: str) -> Fill:
        """What an earlier process left, or an empty fill."""
        place = self._place(url)
        try:
            notes = json.loads(place.with_suffix(".json").read_text())
            size = place.stat().st_size
            if isinstance(notes, dict) and notes.get("url") == url and notes.get("size") == size:
                os.utime(place)  # it is used
                etag, modified = str(notes.get("etag", "")), str(notes.get("modified", ""))
                return Fill(url, place, size, size, complete=True, etag=etag, modified=modified)
        except (OSError, ValueError):
            pass
        return Fill(url, self._partial(url))

    def _create(self, fill: Fill) -> BufferedWriter:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return fill.path.open("wb")

    def _install(self, fill: Fill, file: BufferedWriter) -> None:
        place = self._place(fill.url)
        os.fsync(file.fileno())
        notes = {"url": fill.url, "size": fill.have, "etag": fill.etag, "modified": fill.modified}
        # Notes first: notes without their file, or of another size, are passed over.
        place.with_suffix(".json").write_text(json.dumps(notes))
        fill.path.replace(place)
        fill.path = place

    def _make_room(self, size: int, fill: Fill) -> None:
        if size > self._limit:
            raise ImageError(f"it has {size} bytes, more than boot.cache_size ({self._limit})")
        kept = []
        for path in self._directory.glob("*"):
            with contextlib.suppress(OSError):
                if not path.name.startswith(".") and not path.suffix:
                    facts = path.stat()
                    kept.append((facts.st_mtime, facts.st_size, path))
        used = sum(each for _, each, _ in kept)
        old = self._place(fill.url)
        for _, each, path in sorted(kept):
            if used + size <= self._limit:
                return
            if path != old:
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
                used -= each


def fills_of(settings: Settings) -> Fills:
    """The daemon's."""
    return Fills(Path(settings.state_dir) / "boot-files", settings.boot.cache_size, settings.images.download_timeout)


def _write(file: BufferedWriter, data: bytearray) -> None:
    file.write(data)
    file.flush()


def _conditions(known: Fill) -> dict[str, str]:
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.modified} if known.modified else {}


def _session(timeout: float) -> aiohttp.ClientSession:
    limits = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=min(timeout, 30.0), sock_read=timeout)
    return aiohttp.ClientSession(timeout=limits, auto_decompress=False, requote_redirect_url=False)


def _shown(url: str) -> str:
    """The URL without a user's name and password, and without its query, which may hold a signature."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
