"""The file that a download grows in: hashed while it is written, sparse where the image is zero, resumable.

Blocking; every method runs in a thread. What a killed process left is taken up again by hashing it once more.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 16
"""Zeros are left out of the file in blocks of this size."""

_ZEROS = memoryview(bytes(BLOCK))


class Sink:
    """Writes an image to `path` and computes its digests.

    Args:
        path: the partial file.
        algorithms: names that `hashlib` knows.
    """

    def __init__(self, path: Path, algorithms: frozenset[str]) -> None:
        self._path = path
        self._names = algorithms
        self._hashes = {name: hashlib.new(name) for name in algorithms}
        self._file: BinaryIO | None = None
        self.size = 0
        """How many bytes the image has so far."""

    def open(self, *, resume: bool) -> int:
        """Open the file, and hash what is there when `resume` is set. Returns how many bytes it has."""
        self.restart()
        if resume and self._path.exists():
            self._file = self._path.open("r+b")
            while data := self._file.read(1 << 20):
                self._add(data)
            # the last block may be half written
            return self.size
        self._file = self._path.open("w+b")
        return 0

    def restart(self) -> None:
        """Forget everything; the next bytes are the image's first."""
        self._hashes = {name: hashlib.new(name) for name in self._names}
        self.size = 0
        if self._file is not None:
            self._file.truncate(0)
            self._file.seek(0)

    def _add(self, data: bytes | bytearray) -> None:
        for one in self._hashes.values():
            one.update(data)
        self.size += len(data)

    def write(self, data: bytes | bytearray) -> None:
        """Append.

        Raises:
            OSError: with ENOSPC, when the file system is full.
        """
        assert self._file is not None
        at = self.size
        view = memoryview(data)
        for start in range(0, len(data), BLOCK):
            block = view[start : start + BLOCK]
            if block != _ZEROS[: len(block)]:
                self._file.seek(at + start)
                self._file.write(block)
        self._file.flush()
        self._add(data)

    def copy(self, source: BinaryIO, count: int) -> int:
        """Append up to `count` bytes of another file; returns how many it gave."""
        data = source.read(count)
        if data:
            self.write(data)
        return len(data)

    def finish(self) -> dict[str, str]:
        """Bring the file to its full length and onto the disk. Returns the digests in hex by algorithm."""
        assert self._file is not None
        self._file.truncate(self.size)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        return {name: one.hexdigest() for name, one in self._hashes.items()}

    def close(self) -> None:
        """Close the file; what is in it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None


def digest_file(path: Path, algorithm: str) -> str:
    """The digest of a whole file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
