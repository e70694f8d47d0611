"""The directories of the image cache: names, room, and what must stay.

Blocking; every method runs in a thread, except the ones that only make names.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metald.errors import ImageError

HOLD_DAYS = 7.0
"""A hold older than this was left by a node that is gone."""

_STALE_PARTIAL = 24 * 3600.0
_DIGEST = re.compile(r"[0-9a-f]{128}", re.ASCII)
_WORD = re.compile(r"[0-9A-Za-z_-]{1,128}", re.ASCII)
_SPARE = 16 << 20
"""Bytes of the file system that are never planned for."""


def _occupied(path: Path) -> int:
    """Bytes that a file takes on the disk; none when it is gone."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    used: float
    size: int


class Shelf:
    """See the module.

    Args:
        directory: the cache's own directory; made when first written to.
        limit: how many bytes all raw disks and running downloads may take.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._holds: dict[str, tuple[str, float]] | None = None
        """What each node holds, and since when, as the files tell; None until it is asked for."""
        self.reserved: dict[str, int] = {}
        """Bytes that running fetches will need, by key."""

    def _place(self, kind: str, name: str) -> Path:
        if not _WORD.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a name in the cache")
        return self._directory / kind / name

    def raw(self, sha512: str) -> Path:
        """Where the raw disk with this digest lies, if it is there."""
        if not _DIGEST.fullmatch(sha512):
            raise ValueError("not a SHA-512")
        return self._place("raw", sha512)

    def index(self, key: str) -> Path:
        """The note about what a request led to."""
        return self._place("index", key).with_suffix(".json")

    def partial(self, key: str) -> Path:
        """Where a fetch grows. Makes the directories."""
        for kind in ("raw", "partial", "holds", "index"):
            (self._directory / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._place("partial", key)

    def drive(self, node_uuid: str) -> Path:
        """A node's config drive."""
        return self._place("drives", node_uuid)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file at once."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _hold(self, holder: str, sha512: str) -> None:
        if holder:
            self.write(self._place("holds", holder), sha512.encode())
            if self._holds is not None:
                self._holds[holder] = (sha512, time.time())

    def take(self, sha512: str, size: int, holder: str) -> bool:
        """Keep a raw disk of `size` bytes for a node, if it is here; it counts as used now. Nothing evicts it in between."""
        path = self.raw(sha512)
        with self._lock:
            try:
                if path.stat().st_size != size:
                    return False
                self._hold(holder, sha512)
                os.utime(path)
            except FileNotFoundError:
                return False
            return True

    def install(self, made: Path, sha512: str, holder: str) -> Path:
        """Give a raw disk that is complete its name, and keep it for a node. Returns where it lies."""
        target = self.raw(sha512)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            self._hold(holder, sha512)
            made.replace(target)
            os.utime(target)
        return target

    def drop_old(self, age: float) -> float | None:
        """Remove raw disks that nobody holds and nobody used for `age` seconds, and what is told of disks that are gone.

        Returns:
            When the next one will be as old, as seconds since 1970; None when there is none.
        """
        due: list[float] = []
        with self._lock:
            held = self._held()
            for one in self._kept():
                if one.path.name in held:
                    due.append(time.time() + age)
                elif one.used + age <= time.time():
                    one.path.unlink(missing_ok=True)
                else:
                    due.append(one.used + age)
            self._drop_stale()
            self._drop_notes()
        return min(due, default=None)

    def release(self, holder: str) -> None:
        """Let go of what a node held."""
        with self._lock:
            for kind in ("holds", "drives"):
                self._place(kind, holder).unlink(missing_ok=True)
            if self._holds is not None:
                self._holds.pop(holder, None)

    def discard(self, key: str) -> None:
        """Remove what a fetch left half done."""
        for path in (self._directory / "partial").glob(f"{key}*"):
            path.unlink(missing_ok=True)

    def _held(self) -> set[str]:
        if self._holds is None:
            self._holds = {}
            for path in (self._directory / "holds").glob("*"):
                with suppress(OSError):
                    self._holds[path.name] = (path.read_text(), path.stat().st_mtime)
        since = time.time() - HOLD_DAYS * 86400
        return {sha512 for sha512, at in self._holds.values() if at > since}

    def _kept(self) -> list[_Kept]:
        kept = []
        for path in (self._directory / "raw").glob("*"):
            with suppress(OSError):
                facts = path.stat()
                kept.append(_Kept(path, facts.st_mtime, facts.st_blocks * 512))
        return sorted(kept, key=lambda one: one.used)

    def make_room(self, key: str, size: int, shown: str) -> None:
        """Reserve room for a fetch, evicting what was not used for longest.

        Args:
            size: bytes of everything that the fetch will have on the disk, what it has by now included.

        Raises:
            ImageError: the rest is held by deployments, or the image is larger than the cache.
        """
        if size > self._limit:
            raise ImageError(
                f"The image {shown} needs {size} bytes, the image cache may hold {self._limit}.", remedy="Raise images.cache_size."
            )
        with self._lock:
            self._drop_stale()
            self.reserved[key] = size
            others = sum(self.reserved.values())
            needed = max(0, size - sum(_occupied(path) for path in (self._directory / "partial").glob(f"{key}*")))
            kept, held = self._kept(), self._held()
            used = sum(one.size for one in kept)
            for one in kept:
                if used + others <= self._limit and self._free() >= needed:
                    return
                if one.path.name not in held:
                    one.path.unlink(missing_ok=True)
                    used -= one.size
            if used + others > self._limit:
                raise ImageError(
                    f"The image cache {self._directory} has no room for the image {shown}: running deployments hold {used} of "
                    f"{self._limit} bytes, and {others} are planned for.",
                    remedy="Wait for them, or raise images.cache_size.",
                )
            if self._free() < needed:
                raise ImageError(
                    f"The disk of the image cache {self._directory} has {self._free()} bytes left; the image {shown} needs {needed}.",
                    remedy="Free space there, or set images.cache_dir to a larger file system.",
                )

    def _free(self) -> int:
        return max(0, shutil.disk_usage(self._directory).free - _SPARE)

    def _drop_stale(self) -> None:
        """Remove partial files that nobody came back for."""
        for path in (self._directory / "partial").glob("*"):
            with suppress(OSError):
                if path.stem not in self.reserved and time.time() - path.stat().st_mtime > _STALE_PARTIAL:
                    path.unlink()

    def _drop_notes(self) -> None:
        """Remove what is told of disks that are gone."""
        for path in (self._directory / "index").glob("*.json"):
            with suppress(OSError):
                if not self._leads_on(path):
                    path.unlink()

    def _leads_on(self, note: Path) -> bool:
        """Whether the disk that a note tells of is here."""
        found = _DIGEST.search(note.read_text())
        return found is not None and self.raw(found[0]).exists()
