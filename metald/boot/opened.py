"""Opens files for the boot servers."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from metald.errors import NotFound


def open_regular(path: Path) -> tuple[BufferedReader, os.stat_result]:
    """Open a regular file. Blocks.

    Raises:
        NotFound: there is none, it cannot be read, or it is something else than a file.
    """
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hang the thread that opens it.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError:
        raise NotFound("There is no such boot file.") from None
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        file.close()
        raise NotFound("There is no such boot file.")
    return file, facts
