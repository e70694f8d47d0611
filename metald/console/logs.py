"""A log file for each console, written off the loop and rotated by size.

Rules: what comes is gathered and written in batches by a thread; a disk that is full or gone costs log lines, is said once,
and never stops a console; files are for the daemon's account alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_PAUSE: Final = 0.2
_MOST_GATHERED: Final = 1 << 20


class ConsoleLogs:
    """The log files of all consoles.

    Args:
        directory: where they are; made when first needed.
        size: bytes after which a file is put aside.
        files: how many are kept of each console, the present one included.
    """

    def __init__(self, directory: Path, size: int, files: int) -> None:
        self._directory, self._size, self._files = directory, size, files
        self._gathered: dict[str, bytearray] = {}
        self._wanted = asyncio.Event()
        self._said = False

    def path(self, name: str) -> Path:
        """The present file of a console."""
        return self._directory / f"{name}.log"

    def add(self, name: str, data: bytes) -> None:
        """Have `data` written. More than a MiB that waits is cut at its beginning."""
        gathered = self._gathered.setdefault(name, bytearray())
        gathered += data
        if len(gathered) > _MOST_GATHERED:
            del gathered[: len(gathered) - _MOST_GATHERED]
        self._wanted.set()

    async def run(self) -> None:
        """Write what comes until cancelled; then what is left."""
        try:
            while True:
                await self._wanted.wait()
                await asyncio.sleep(_PAUSE)
                await self.flush()
        finally:
            await asyncio.shield(self.flush())

    async def flush(self) -> None:
        """Write what was gathered."""
        self._wanted.clear()
        batch, self._gathered = self._gathered, {}
        if not batch:
            return
        try:
            await asyncio.to_thread(self._write, batch)
            self._said = False
        except OSError as error:
            if not self._said:
                _log.warning("console logs in %s cannot be written: %s", self._directory, error.strerror)
            self._said = True

    def _write(self, batch: dict[str, bytearray]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in batch.items():
            path = self.path(name)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                file.write(data)
                full = file.tell() >= self._size
            if full:
                self._rotate(path)

    def _rotate(self, path: Path) -> None:
        if self._files <= 1:
            path.unlink()
            return
        for number in range(self._files - 1, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                path.with_suffix(f".log.{number - 1}").rename(path.with_suffix(f".log.{number}"))
        path.rename(path.with_suffix(".log.1"))
