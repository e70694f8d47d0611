"""A TCP port on every address of the loopback device: whoever connects to a machine's address is handed on with it.

Nothing on another device can reach it (SO_BINDTODEVICE).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

_SO_BINDTODEVICE = 25
_BACKLOG = 4096
_ACCEPT = 32


class Listener:
    """Accepts connections, each in a task of its own.

    Args:
        greet: given the connected socket, which it has to close, and the address that was connected to.
        name: what the tasks are called.
    """

    def __init__(self, greet: Callable[[socket.socket, str], Coroutine[Any, Any, None]], name: str) -> None:
        self._greet = greet
        self._name = name
        self._sock: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def start(self, port: int = 0) -> None:
        """Listen; see `port` for the one that was free.

        Raises:
            OSError: the port is taken.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"lo\0")
            sock.setblocking(False)
            sock.bind(("0.0.0.0", port))  # noqa: S104 - bound to the loopback device
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self._sock = sock
        self.port = sock.getsockname()[1]
        asyncio.get_running_loop().add_reader(sock, self._readable)

    async def close(self) -> None:
        """Answer nobody any more, and end the greetings under way."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _readable(self) -> None:
        assert self._sock is not None
        for _ in range(_ACCEPT):
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            sock.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._greet(sock, sock.getsockname()[0]), name=self._name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
