"""A wall clock of a whole daemon that a test moves while it runs, by a small library that is preloaded. Steady clocks stay as they are."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """Moves the clock of processes that are started with its `environment`.

    Args:
        folder: where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "clock"
        library = folder / "shifted_clock.so"
        source = Path(__file__).with_name("shifted_clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "METALD_TEST_CLOCK": str(self._offset)}
        self._ahead = 0
        self._offset.write_bytes(bytes(8))

    def ahead(self, seconds: int) -> None:
        """From now on it is so many seconds ahead of the real time; behind when negative."""
        self._ahead = seconds
        with self._offset.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

    def now(self) -> float:
        """What it shows, in seconds since 1970."""
        return time.time() + self._ahead
