"""Sends files to many sockets at once by `sendfile`: one epoll of all that wait for room, which is one descriptor for the loop.

asyncio's own `sendfile` registers and unregisters the socket with the loop for every buffer that is filled, which costs more than the
kernel takes to send it. Here a socket stays registered while it sends.

Rules: a socket sends through a descriptor of its own (dup), so that nobody else's closing can make the number mean another
connection. Nobody sends more than `_TURN` bytes before others have their turn. What is not in the page cache is read in a thread
first, for `sendfile` would make everybody wait for the disk. Whoever takes longer than `stall` seconds for `_STALLED` bytes is
given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from types import TracebackType
from typing import Self

_TURN = 1 << 20
_STALLED = 4 << 20
_AHEAD = 4 << 20
_AT_ONCE = 64


class Pump:
    """Waits for all sockets at once."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ways: dict[int, Way] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        """Once nobody sends any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def enter(self, descriptor: int, way: Way) -> None:
        """Give a socket its turns from now on."""
        self._ways[descriptor] = way
        self._epoll.register(descriptor, select.EPOLLOUT)

    def leave(self, descriptor: int) -> None:
        """No more of them."""
        if self._ways.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _turn(self) -> None:
        for descriptor, _ in self._epoll.poll(0, _AT_ONCE):
            way = self._ways.get(descriptor)
            if way is not None:
                way.turn()


class Way:
    """One socket's way out, as a context manager.

    Args:
        pump: gives it its turns.
        socket: descriptor of a connected socket in whose own buffer nothing waits.
        stall: see the module.
    """

    __slots__ = ("_at", "_began", "_cold", "_end", "_file", "_first", "_inside", "_pump", "_sent", "_socket", "_stall", "_timer")

    def __init__(self, pump: Pump, socket: int, stall: float) -> None:
        self._pump = pump
        self._socket = os.dup(socket)
        self._stall = stall
        self._inside = False
        self._cold: asyncio.Future[None] | None = None
        self._file = self._at = self._first = self._end = self._began = 0
        self._sent: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pump.leave(self._socket)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._socket)

    async def send(self, file: int, at: int, size: int) -> int:
        """Send a part of a file; how many bytes went, which is fewer only when the file became shorter.

        Raises:
            TimeoutError: the client stalled.
            OSError: it went away.
        """
        self._file, self._at, self._end, self._began = file, at, at + size, at
        self._first = at
        loop = asyncio.get_running_loop()
        self._sent = loop.create_future()
        self.turn()
        try:
            if not self._sent.done():
                self._wait()
                if self._timer is None:
                    self._timer = loop.call_later(self._stall, self._look)
            await self._sent
        finally:
            self._sent = None
        return self.went

    @property
    def went(self) -> int:
        """Bytes of the last part that went."""
        return self._at - self._first

    def turn(self) -> None:
        """Fill the socket's buffer, a turn's worth at most."""
        sent = self._sent
        if sent is None or sent.done():
            # The socket has room and there is nothing to send: it must not wake us until there is.
            self._rest()
            return
        size = min(_TURN, self._end - self._at)
        if not _is_warm(self._file, self._at + size - 1):
            self._warm()
            return
        try:
            went = os.sendfile(self._socket, self._file, self._at, size)
        except BlockingIOError:
            return
        except OSError as error:
            sent.set_exception(error)
            return
        self._at += went
        if not went or self._at == self._end:
            sent.set_result(None)

    def _wait(self) -> None:
        """Have turns, unless something is being read."""
        if not self._inside and self._cold is None:
            self._inside = True
            self._pump.enter(self._socket, self)

    def _rest(self) -> None:
        """Have none for now."""
        self._inside = False
        self._pump.leave(self._socket)

    def _warm(self) -> None:
        """Have the next part read into the page cache by a thread, and go on then."""
        self._rest()
        # A descriptor of its own: the file may be closed before the disk has answered.
        descriptor = os.dup(self._file)
        self._cold = asyncio.get_running_loop().run_in_executor(None, _read, descriptor, self._at, min(_AHEAD, self._end - self._at))
        self._cold.add_done_callback(self._warmed)

    def _warmed(self, read: asyncio.Future[None]) -> None:
        self._cold = None
        if self._sent is None or self._sent.done() or read.cancelled():
            return
        if (error := read.exception()) is not None:
            self._sent.set_exception(error)
            return
        self._wait()

    def _look(self) -> None:
        """Give up whoever took too little since the last look."""
        self._timer = None
        sent = self._sent
        if sent is None or sent.done():
            return
        if self._at - self._began < _STALLED:
            sent.set_exception(TimeoutError())
            return
        self._began = self._at
        self._timer = asyncio.get_running_loop().call_later(self._stall, self._look)


def _is_warm(file: int, at: int) -> bool:
    """Whether the byte can be read without the disk; also when nobody knows."""
    try:
        os.preadv(file, [bytearray(1)], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that does not say
        return True
    return True


def _read(descriptor: int, at: int, size: int) -> None:
    """Bring a part of a file into the page cache. Blocks."""
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, at, size, os.POSIX_FADV_WILLNEED)
        os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)
