"""asyncssh, loaded behind the start: it takes a tenth of a second that no machine waits for when the daemon comes up.

Rules: who uses asyncssh imports it where it is used. The daemon calls `load` once its address answers, in a thread, so that
the first connection does not stop the event loop for the loading.
"""

from __future__ import annotations

import asyncio
import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh


async def load() -> None:
    """Load asyncssh in a thread."""
    await asyncio.to_thread(importlib.import_module, "asyncssh")


def gone() -> tuple[type[BaseException], ...]:
    """What a broken SSH connection raises."""
    import asyncssh

    return (asyncssh.Error, OSError, EOFError, asyncio.IncompleteReadError)


@cache
def client() -> type[asyncssh.SSHClient]:
    """What `asyncssh.connect` takes as client_factory, so that a connection leaves nothing to the garbage collector.

    A closed connection keeps hold of itself by the method that would take the next packet, and with itself of every channel
    and buffer it had. Thousands of them would make each full collection stop the event loop for long.
    """
    import asyncssh

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self._connection = conn

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            # behind what runs now: this may be called from within that method, which names its successor when it returns
            asyncio.get_running_loop().call_soon(_let_go, vars(self).pop("_connection"))

    return Client


def _let_go(connection: asyncssh.SSHClientConnection) -> None:
    vars(connection)["_recv_handler"] = bool  # takes nothing more: False
