"""One command on an SSH connection, as a session of our own, without the streams and buffers of asyncssh's processes.

Rules: what it has said is bounded, and nothing of it holds itself, so that a command that is over is gone without the
garbage collector. This module loads asyncssh; import it where it is used.
"""

from __future__ import annotations

import asyncio

import asyncssh

MOST = 8 << 20
"""Bytes that a command may say without being read."""


class Command(asyncssh.SSHClientSession[bytes]):
    """What a command says, as it comes.

    Args:
        merged: errors go to the output, in the order they came.
    """

    def __init__(self, *, merged: bool = False) -> None:
        self.output = bytearray()
        self.errors = self.output if merged else bytearray()
        self.lost: Exception | None = None
        """Why the connection broke, when it did before the command was over."""
        self.over = False
        self.too_much = False
        """It said more than `MOST`; the rest is thrown away."""
        self._news: asyncio.Future[None] | None = None

    def data_received(self, data: bytes, datatype: int | None) -> None:
        kept = self.output if datatype is None else self.errors
        self.too_much = self.too_much or len(kept) + len(data) > MOST
        if not self.too_much:
            kept += data
        self._tell()

    def eof_received(self) -> bool:
        return True  # its exit status comes behind it

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self.over = exc, True
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _more(self) -> None:
        """Return when it has said more, or is over."""
        if not self.over:
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    async def line(self) -> bytes:
        """The next line of its output, with its end; empty when it is over.

        Raises:
            Exception: the connection broke.
        """
        looked = 0
        while (end := self.output.find(b"\n", looked) + 1) == 0:
            looked = len(self.output)
            if self.lost is not None:
                raise self.lost
            if self.over or self.too_much:
                end = len(self.output)
                break
            await self._more()
        found = bytes(self.output[:end])
        del self.output[:end]
        return found

    async def end(self) -> None:
        """Return when it is over.

        Raises:
            Exception: the connection broke.
        """
        while not self.over:
            await self._more()
        if self.lost is not None:
            raise self.lost
