"""Logs of agents, kept for who looks into a failure. Rules: bounded in size and number, for the daemon's account only."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

KEPT = 20
"""Archives of one node that are kept."""


def keep(directory: Path, node_uuid: str, moment: datetime, system_logs: str) -> tuple[Path, int]:
    """Write an agent's logs (base64 of a gzip'ed archive) to a file, and let go of the oldest of the node. Blocks.

    Returns:
        The file and its size in bytes.

    Raises:
        ValueError: it is no base64.
        OSError: it cannot be written.
    """
    try:
        data = base64.b64decode(system_logs, validate=False)
    except binascii.Error as error:
        raise ValueError("the agent's logs are not base64") from error
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{node_uuid}_{moment:%Y%m%dT%H%M%S.%fZ}.tar.gz"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    for old in sorted(directory.glob(f"{node_uuid}_*.tar.gz"))[:-KEPT]:
        with suppress(OSError):
            old.unlink()
    return path, len(data)
