"""asyncssh, loaded behind the start: it takes a tenth of a second that no machine waits for when the daemon comes up.

Rules: who uses asyncssh imports it where it is used. The daemon calls `load` once its address answers, in a thread, so that
the first connection does not stop the event loop for the loading.
"""

from __future__ import annotations

import asyncio
import importlib


async def load() -> None:
    """Load asyncssh in a thread."""
    await asyncio.to_thread(importlib.import_module, "asyncssh")


def gone() -> tuple[type[BaseException], ...]:
    """What a broken SSH connection raises."""
    import asyncssh

    return (asyncssh.Error, OSError, EOFError, asyncio.IncompleteReadError)
