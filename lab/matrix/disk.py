"""Commands the disk of `disk.c`, and cuts its power.

Rules: a loss of power takes nothing that a sync had confirmed. Anything else may be gone: the bytes written since may be
there, be others, or be zeros, from a random byte on; a file that grew may be cut there.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import re
import struct
from pathlib import Path
from typing import Final

FULL: Final = 1
SYNC_FAILS: Final = 2
DIES_IN_SYNC: Final = 4

_PAGE = 4096
_GRAINS = 16 << 20
_GRAIN = 8
_COUNTERS = struct.Struct("6i")
_UNSAFE = re.compile(rb"[\1\2]+")


async def compiled(folder: Path) -> Path:
    """The shared object, compiled when it is not there yet.

    Raises:
        RuntimeError: the compiler refuses; its words are the text.
    """
    source, made = Path(__file__).with_name("disk.c"), folder / "disk.so"
    if made.exists() and made.stat().st_mtime >= source.stat().st_mtime:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"disk-{os.getpid()}.so"
    words = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(fresh), str(source), "-ldl"]
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"gcc: {said.decode(errors='replace')}")
    fresh.replace(made)
    return made


class Disk:
    """The disk under one database, for every daemon that opens it.

    Args:
        library: see `compiled`.
        account: a file of its own, made here.
        database: the SQLite file.
        chance: decides what a loss of power takes.
    """

    def __init__(self, library: Path, account: Path, database: Path, chance: random.Random) -> None:
        account.parent.mkdir(parents=True, exist_ok=True)
        with account.open("wb") as made:
            made.truncate(_PAGE + 2 * _GRAINS)
        with account.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(library), "MATRIX_DISK": str(account)}
        """What a daemon needs to be under it."""
        self._database = database
        self._wal = database.with_name(f"{database.name}-wal")
        self._chance = chance

    def close(self) -> None:
        """Let go of the account."""
        self._map.close()

    def order(self, mode: int, countdown: int = 0) -> None:
        """Fail from now on as `mode` says; 0 is a good disk.

        Args:
            countdown: syncs of the WAL until the process dies in one.
        """
        struct.pack_into("ii", self._map, 0, mode, countdown)

    @property
    def refusals(self) -> tuple[int, int]:
        """Writes and syncs that were refused so far."""
        found = _COUNTERS.unpack_from(self._map)
        return found[4], found[5]

    @property
    def syncs(self) -> int:
        """Syncs that succeeded so far."""
        return int(_COUNTERS.unpack_from(self._map)[3])

    def lose_power(self) -> int:
        """Take what a loss of power may take. No daemon may run.

        Returns:
            Bytes that were not as they were.
        """
        lost = self._tear(self._wal, _PAGE) + self._tear(self._database, _PAGE + _GRAINS)
        self._database.with_name(f"{self._database.name}-shm").unlink(missing_ok=True)
        self._map[24:48] = bytes(24)
        return lost

    def _tear(self, path: Path, at: int) -> int:
        lost = 0
        if path.exists():
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                # a slice: a regular expression that looks at the map itself would keep it from being closed
                for run in _UNSAFE.finditer(self._map[at : at + min(_GRAINS, -(-size // _GRAIN))]):
                    lost += self._tear_run(file.fileno(), size, run.start() * _GRAIN, min(run.end() * _GRAIN, size))
                    self._map[at + run.start() : at + run.end()] = bytes(run.end() - run.start())
                os.fsync(file.fileno())
        return lost

    def _tear_run(self, descriptor: int, size: int, first: int, last: int) -> int:
        if first >= last or self._chance.random() < 0.2:
            return 0  # it came to the disk by itself
        cut = self._chance.randrange(first, last)
        if last == size and self._chance.random() < 0.5:
            os.ftruncate(descriptor, cut)
        else:
            new = self._chance.randbytes(last - cut) if self._chance.random() < 0.5 else bytes(last - cut)
            os.pwrite(descriptor, new, cut)
        return last - cut
