"""One machine's console, shared: every reader sees what the machine prints, every writer types into the same line.

Rules:

- One line per machine however many look. It is opened when the console is enabled and opened again whenever it ends, with
  growing pauses; readers stay and see a notice.
- All who may look may type; what they type arrives in the order in which it came, piece by piece. As with people at one
  keyboard, they have to agree among themselves.
- A new reader first gets the scroll-back, which is bounded. A reader that is slow loses the oldest of what waits for it and
  is told so; it never holds up the machine or another reader.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from metald.console.line import Dial, Line, LineEnded
from metald.errors import MetaldError, Unavailable

_MOST_WAITING: Final = 256 << 10
_FIRST_PAUSE: Final = 0.5
_STEADY: Final = 10.0
_CLOSE_TIMEOUT: Final = 5.0


class Reader:
    """One pair of eyes. Made by `ConsoleStream.join`, ended by `leave`."""

    def __init__(self, stream: ConsoleStream, backlog: bytes) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque((backlog,) if backlog else ())
        self._size = len(backlog)
        self._skipped = 0
        self._ready = asyncio.Event()
        self._closed = False

    async def read(self) -> bytes:
        """Wait for what the machine prints; empty once the console is closed."""
        while not self._waiting:
            if self._closed:
                return b""
            self._ready.clear()
            await self._ready.wait()
        data = b"".join(self._waiting)
        if self._skipped:
            data = notice(f"{self._skipped} bytes were skipped, because you read too slowly") + data
        self._waiting.clear()
        self._size = self._skipped = 0
        return data

    def feed(self, data: bytes) -> None:
        """Add what was printed."""
        self._waiting.append(data)
        self._size += len(data)
        while self._size > _MOST_WAITING:
            oldest = self._waiting.popleft()
            self._size -= len(oldest)
            self._skipped += len(oldest)
        self._ready.set()

    def end(self) -> None:
        """The console is closed."""
        self._closed = True
        self._ready.set()

    def leave(self) -> None:
        """Look no longer."""
        self._stream.forget(self)


class ConsoleStream:
    """The shared console of one machine.

    Args:
        label: what notices call the machine.
        dial: opens the line.
        scrollback: most bytes kept for new readers.
        most_readers: most that may look at once.
        longest_pause: most seconds between two attempts to open the line.
        record: is given everything that is printed.
    """

    def __init__(
        self, label: str, dial: Dial, *, scrollback: int, most_readers: int, longest_pause: float, record: Callable[[bytes], None]
    ) -> None:
        self.label = label
        self._dial = dial
        self._scrollback = bytearray()
        self._most_kept = scrollback
        self._most_readers = most_readers
        self._longest = longest_pause
        self._record = record
        self._readers: set[Reader] = set()
        self._line: Line | None = None
        self.cause = ""
        """Why there is no line at present."""

    @property
    def connected(self) -> bool:
        """Whether the line stands."""
        return self._line is not None

    @property
    def readers(self) -> int:
        """How many look."""
        return len(self._readers)

    async def run(self) -> None:
        """Keep the line open until cancelled."""
        pause = _FIRST_PAUSE
        try:
            while True:
                began = asyncio.get_running_loop().time()
                cause = await self._once()
                if asyncio.get_running_loop().time() - began > _STEADY:
                    pause = _FIRST_PAUSE
                if cause != self.cause:  # a BMC that stays away is told of once
                    self.cause = cause
                    self._print(notice(f"{cause} Trying to reconnect"))
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                pause = min(2 * pause, max(self._longest, _FIRST_PAUSE))
        finally:
            self._print(notice("the console is closed"))
            for reader in self._readers:
                reader.end()
            self._readers.clear()

    async def _once(self) -> str:
        """Open the line and pass on what it brings; returns why it ended."""
        try:
            line = await self._dial()
        except MetaldError as error:
            return error.message
        try:
            self._line, self.cause = line, ""
            self._print(notice(f"console of {self.label} connected"))
            while True:
                self._print(await line.read())
        except LineEnded as error:
            return f"the connection to the console ended: {error}."
        finally:
            self._line = None
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await line.close()

    def _print(self, data: bytes) -> None:
        self._scrollback += data
        if len(self._scrollback) > self._most_kept:
            del self._scrollback[: len(self._scrollback) - self._most_kept]
        self._record(data)
        for reader in self._readers:
            reader.feed(data)

    def join(self) -> Reader:
        """Look at the console from now on, the scroll-back first.

        Raises:
            Unavailable: too many look already.
        """
        if len(self._readers) >= self._most_readers:
            raise Unavailable(f"The console of {self.label} has {self._most_readers} readers already.", remedy="Raise console.readers.")
        reader = Reader(self, bytes(self._scrollback))
        self._readers.add(reader)
        return reader

    def forget(self, reader: Reader) -> None:
        """A reader left."""
        self._readers.discard(reader)

    async def write(self, data: bytes) -> None:
        """Type. Lost while there is no line, as on a cable that is unplugged."""
        if self._line is not None and data:
            await self._line.write(data)

    def send_break(self) -> None:
        """Send a serial break, if there is a line."""
        if self._line is not None:
            self._line.send_break()


def notice(text: str) -> bytes:
    """A line of metald's own among the machine's."""
    return f"\r\n[metald: {text}]\r\n".encode()
