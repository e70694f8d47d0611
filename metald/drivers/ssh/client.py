"""Our side of an SSH connection that leaves nothing to the garbage collector.

A closed connection keeps hold of itself by the method that would take the next packet, and with itself of every channel and buffer
it had. Thousands of them would make each full collection stop the event loop for long. This module loads asyncssh; import it where
it is used.
"""

from __future__ import annotations

import asyncio

import asyncssh


class Client(asyncssh.SSHClient):
    """What `asyncssh.connect` takes as client_factory."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """See `asyncssh.SSHClient`."""
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncssh.SSHClient`."""
        # behind what runs now: this may be called from within that method, which names its successor when it returns
        asyncio.get_running_loop().call_soon(_let_go, vars(self).pop("_connection"))


def _let_go(connection: asyncssh.SSHClientConnection) -> None:
    vars(connection)["_recv_handler"] = bool  # takes nothing more: False
