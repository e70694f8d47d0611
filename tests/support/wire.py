"""A session and a simulated BMC joined in memory, in virtual time: thousands of logins a second, any loss, any order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.session import BmcSession
from metald.errors import DriverError
from metald.sim.chassis import SimBmc

Fate = Callable[[], float | None]
"""Of one datagram: the seconds it takes, or None when it is lost."""


class MemoryWire:
    """Carries the datagrams of one session. `log` tells what the session said, with the virtual time."""

    def __init__(self, info: BmcInfo, bmc: SimBmc, fate: Fate = lambda: 0.001) -> None:
        self.session = BmcSession(info, self)
        self.bmc = bmc
        self.fate = fate
        self.now = 0.0
        self.error: DriverError | None = None
        self.answers: list[tuple[int, bytes]] = []
        self.log: list[tuple[float, str]] = []
        self._deadline: float | None = None
        self._queue: list[tuple[float, int, bool, bytes]] = []
        self._order = count()

    def run(self, until: Callable[[], bool], limit: float = 60.0) -> None:
        """Let time pass until `until()` or `limit` seconds from now."""
        end = self.now + limit
        while not until():
            next_packet = self._queue[0][0] if self._queue else end + 1
            next_timer = self._deadline if self._deadline is not None else end + 1
            self.now = min(next_packet, next_timer)
            if self.now > end:
                return
            if next_packet <= next_timer:
                _, _, inbound, data = heapq.heappop(self._queue)
                self._arrive(inbound, data)
            else:
                self._deadline = None
                self.session.expired()

    def login(self) -> str:
        """Log in and say how it ended: `logged in`, the error's code, or `nothing`."""
        self.session.login()
        self.run(lambda: self.session.established or self.error is not None)
        return "logged in" if self.session.established else self.error.code if self.error else "nothing"

    def ask(self, netfn: int, command: int, data: bytes = b"") -> tuple[int, bytes] | None:
        """One command; None when the session was lost."""
        before = len(self.answers)
        lost = len(self.log)
        self.session.request(netfn, command, data)
        self.run(lambda: len(self.answers) > before or any(what == "lost" for _, what in self.log[lost:]))
        return self.answers[-1] if len(self.answers) > before else None

    def inject(self, data: bytes) -> None:
        """Something from the BMC's address that the BMC did not send."""
        self.session.datagram(data)

    def _arrive(self, inbound: bool, data: bytes) -> None:
        if inbound:
            self.session.datagram(data)
            return
        answer = self.bmc.handle(data, self.now)
        if answer is not None:
            self._send(True, answer)

    def _send(self, inbound: bool, data: bytes) -> None:
        delay = self.fate()
        if delay is not None:
            heapq.heappush(self._queue, (self.now + delay, next(self._order), inbound, data))

    # -- Wire

    def time(self) -> float:
        return self.now

    def transmit(self, data: bytes | bytearray) -> None:
        self._send(False, bytes(data))

    def arm(self, seconds: float) -> None:
        self._deadline = self.now + seconds

    def logged_in(self) -> None:
        self._deadline = None
        self.log.append((self.now, "logged in"))

    def login_failed(self, error: DriverError) -> None:
        self._deadline = None
        self.error = error
        self.log.append((self.now, error.code))

    def answered(self, code: int, data: bytes) -> None:
        self._deadline = None
        self.answers.append((code, data))

    def lost(self) -> None:
        self._deadline = None
        self.log.append((self.now, "lost"))
