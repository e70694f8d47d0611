"""One client's transfer on the loop: its socket, its one timer, and the report at its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from metald.boot.tftp.pace import Pace
from metald.boot.tftp.transfer import Agreed, Burst, Transfer
from metald.boot.tftp.wire import Arrival, Ears, Path

_LIVELY = 3.0
"""Seconds after an answer within which nobody has started over: no machine is reset and back so soon."""
_WAITING = 1.0
"""Seconds until a transfer whose window waits for its turn is looked at again."""

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Who keeps the sessions."""

    @property
    def ears(self) -> Ears:
        """Where sockets are heard."""

    @property
    def pace(self) -> Pace:
        """How fast windows may leave."""

    def forget(self, session: Session) -> None:
        """A session is over."""

    def report(self, arrival: Arrival, name: str, node_uuid: str | None, facts: dict[str, Any]) -> None:
        """What a session did."""


class Session:
    """Begins without a socket, while the file is being read; ends by `end` or `drop`, once.

    Args:
        complaint: an error that is told of when the transfer itself has none: the content says why it is not what was wanted.
    """

    __slots__ = (
        "_agreed",
        "_began",
        "_complaint",
        "_loop",
        "_open",
        "_owner",
        "_path",
        "_queue",
        "_queued",
        "_timer",
        "_transfer",
        "arrival",
        "name",
        "node_uuid",
        "over",
    )

    def __init__(self, owner: Owner, arrival: Arrival, name: str, node_uuid: str | None, complaint: str = "") -> None:
        self.arrival = arrival
        self.name = name
        self.node_uuid = node_uuid
        self.over = False
        self._complaint = complaint
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._open = False
        self._timer: asyncio.TimerHandle | None = None
        self._queue: memoryview | None = None  # of a burst, what waits for its turn
        self._queued: asyncio.TimerHandle | None = None
        # Set by `begin`; nothing looks at them before `_open`.
        self._path: Path
        self._transfer: Transfer
        self._agreed: Agreed

    @property
    def request(self) -> bytes:
        """The datagram that asked for it."""
        return self.arrival.data

    @property
    def begun(self) -> bool:
        """Whether the client has answered our first datagram."""
        return self._open and self._transfer.begun

    @property
    def lively(self) -> bool:
        """Whether the client answered just now."""
        return self.begun and self._transfer.silent_for(self._loop.time()) < _LIVELY

    def begin(self, path: Path, transfer: Transfer, agreed: Agreed) -> None:
        """Send the first datagram; the loop does the rest."""
        self._path, self._transfer, self._agreed, self._open = path, transfer, agreed, True
        path.listen(self._owner.ears, self._readable)
        self._send(transfer.begin(self._loop.time()))
        if not self.over:
            self._timer = self._loop.call_at(transfer.deadline, self._tick)

    def drop(self) -> None:
        """Let go of everything without a report."""
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._queued is not None:
            self._queued.cancel()
        if self._open:
            self._path.close()
        self._owner.forget(self)

    def end(self, error: str = "") -> None:
        """Let go, and report what happened."""
        if self.over:
            return
        self.drop()
        facts: dict[str, Any] = {"bytes": 0, "seconds": round(self._loop.time() - self._began, 6)}
        if self._open:
            facts |= {
                "bytes": self._transfer.bytes_acknowledged,
                "blksize": self._agreed.blksize,
                "windowsize": self._agreed.windowsize,
                "retransmits": self._transfer.retransmits,
            }
            if self._transfer.probed:
                facts["probe"] = "size"
        if error or self._complaint:
            facts["error"] = error or self._complaint
        self._owner.report(self.arrival, self.name, self.node_uuid, facts)

    def heard(self, datagram: bytes) -> None:
        """The client has said something at the listening socket."""
        if not self._open or self.over:
            return
        try:
            self._take(datagram)
        except Exception as error:
            self._broken(error)

    def _readable(self) -> None:
        # One datagram per call: the socket stays readable while there are more, and others get their turn too.
        try:
            self._take(self._path.receive())
        except BlockingIOError:
            return
        except Exception as error:
            self._broken(error)

    def _take(self, datagram: bytes) -> None:
        transfer = self._transfer
        burst = transfer.receive(datagram, self._loop.time())
        if burst is not None:
            if self._owner.pace.limited:
                self._in_turn(burst)
            else:
                self._path.send(burst, transfer.segment)
        elif transfer.ended:
            self.end(transfer.error)

    def _send(self, burst: Burst) -> None:
        try:
            if self._owner.pace.limited:
                self._in_turn(burst)
            else:
                self._path.send(burst, self._transfer.segment)
        except Exception as error:
            self._broken(error)

    def _in_turn(self, burst: Burst) -> None:
        """Send as fast as the pace allows. A burst takes the place of what still waits: it was made later and knows more."""
        self._queue = memoryview(burst)
        if self._queued is None:
            self._next_piece()

    def _next_piece(self) -> None:
        self._queued = None
        pace, loop = self._owner.pace, self._loop
        assert self._queue is not None
        size = min(len(self._queue), pace.piece(self._transfer.segment))
        at = pace.take(self.arrival.peer[0], size, loop.time())
        if at > loop.time():
            self._queued = loop.call_at(at, self._piece)
        else:
            self._piece()

    def _piece(self) -> None:
        self._queued = None
        queue = self._queue
        if queue is None or self.over:
            return
        # Another burst may have come meanwhile, with datagrams of another length.
        size = min(len(queue), self._owner.pace.piece(self._transfer.segment))
        rest = queue[size:]
        self._queue = rest if len(rest) else None
        self._transfer.left(self._loop.time())
        try:
            self._path.send(queue[:size], self._transfer.segment)
        except Exception as error:
            self._broken(error)
            return
        if self._queue is not None:
            self._next_piece()

    def _broken(self, error: Exception) -> None:
        """The client cannot be reached; or there is a defect, which must not keep socket and timer for ever."""
        if isinstance(error, ConnectionRefusedError):
            self._transfer.refused()
            self.end(self._transfer.error)
        elif isinstance(error, OSError):
            self.end(f"no way to the client: {error.strerror}")
        else:
            _log.error("TFTP: sending %s failed", self.name, exc_info=error)
            self.end("internal error")

    def _tick(self) -> None:
        # The deadline moves with every acknowledgement; the timer follows only when it has gone off.
        # Nothing is late that has not left yet.
        burst = self._transfer.expire(self._loop.time()) if self._queue is None else None
        if burst is not None:
            self._send(burst)
        if self._transfer.ended:
            self.end(self._transfer.error)
        elif not self.over:
            due = self._transfer.deadline
            self._timer = self._loop.call_at(due if self._queue is None else max(due, self._loop.time() + _WAITING), self._tick)
