"""One BMC on the loop: its session, the lock that keeps commands one at a time, its one timer.

Rules:

- Whatever happens, `command` ends: each wait in it has a cut-off, counted from the first datagram and not from the
  queueing. A dead BMC costs its callers `login_timeout`; those who queued behind a dead BMC get the same answer at once.
  A BMC that answers is not dead, only slow: its login goes on for as long as the whole command may take.
- One timer per BMC, moved lazily: an answered command leaves it where it is, and it finds out when it fires that
  nothing is due. The same timer closes an idle session, because BMCs have few session slots.
- Cancellation leaves the link usable: the request is forgotten and a late answer to it fits nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from metald.drivers.ipmi import refusal
from metald.drivers.ipmi.guard import Breaker, Bucket
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.pace import PATIENCE, PATIENT, Patience
from metald.drivers.ipmi.recorder import Recorder
from metald.drivers.ipmi.session import BmcSession
from metald.errors import BmcUnreachable, DriverError

if TYPE_CHECKING:
    from metald.drivers.ipmi.hub import IpmiHub

_BUSY_PAUSE = 0.5
_GET_DEVICE_ID = (0x06, 0x01)
_LINES_OF_AN_ERROR = 8
_SLACK = 0.002
_BEHIND_PAUSE = 0.02
_MOST_LOOKS = 50
_NONE, _INSIDE, _ASIDE = range(3)  # where a login stands with the admission window

Peer = tuple[Any, ...]
"""A socket address as recvfrom gives it: the key by which datagrams find their link."""


class Request(NamedTuple):
    """One command."""

    netfn: int
    command: int
    data: bytes
    repeat: bool = True
    """False: sent exactly once."""
    urgent: bool = True
    """False: its login gives way to others', and its session is closed at once where nobody else uses it."""
    lun: int = 0
    bridged: bool = True
    """False: for the BMC itself, whatever the node's bridging."""


class Tenant(Protocol):
    """Who needs the session to stay open between commands: a console."""

    def session_ended(self) -> None:
        """The session is gone."""


class _OutOfTime(Exception):
    """The cut-off has passed."""


class _Lost(Exception):
    """The session did not answer."""


class Link:
    """The way to one BMC. Made and kept by the hub."""

    __slots__ = (
        "_bucket",
        "_cause",
        "_cutoff",
        "_deadline",
        "_due",
        "_failed_at",
        "_failure",
        "_hub",
        "_latest",
        "_lock",
        "_looks",
        "_loop",
        "_place",
        "_seen",
        "_shy",
        "_sock",
        "_suite",
        "_timer",
        "_users",
        "_waiter",
        "breaker",
        "peer",
        "recorder",
        "session",
        "tenant",
    )

    def __init__(self, hub: IpmiHub, sock: socket.socket, peer: Peer) -> None:
        self._hub = hub
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._due = 0.0
        self._cutoff = self._latest = 0.0
        self._looks = 0  # past the cut-off
        self._waiter: asyncio.Future[Any] | None = None
        self._place = _NONE
        self._suite: int | None = None
        self._seen = 0.0
        self._shy = False
        self._failed_at = -1.0
        self._failure: tuple[BmcInfo, DriverError] | None = None
        self._cause = ""
        self.peer = peer
        self._users = 0
        settings = hub.settings
        self._bucket = Bucket(settings.command_rate)
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_pause, settings.breaker_longest)
        self.session: BmcSession | None = None
        self.tenant: Tenant | None = None
        self.recorder = Recorder()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and no session is open."""
        return self.session is None and not self._lock.locked()

    async def command(self, info: BmcInfo, request: Request) -> tuple[int, bytes]:
        """Send a command and return its completion code and data, logging in where needed.

        Raises:
            DriverError: no answer, or the login was refused.
        """
        arrived = self._loop.time()
        self._users += 1
        try:
            async with self._lock:
                return await self._turn(info, request, arrived)
        finally:
            self._let_go(urgent=request.urgent)

    @contextmanager
    def held(self, *, urgent: bool) -> Iterator[None]:
        """Keep the session between commands."""
        self._users += 1
        try:
            yield
        finally:
            self._let_go(urgent=urgent)

    def _let_go(self, *, urgent: bool) -> None:
        """A session that only polls used is closed at once: BMCs have few slots, and a poll needs none until the next one."""
        self._users -= 1
        if not urgent and not self._users and self.tenant is None:
            self._drop()

    async def _turn(self, info: BmcInfo, request: Request, arrived: float) -> tuple[int, bytes]:
        if self._failed_at >= arrived and self._failure is not None and self._failure[0] == info:
            # Found out while we queued: no second wait for a dead BMC, no second try of a wrong password.
            raise copy(self._failure[1])
        now = self._loop.time()
        if not request.urgent:
            self.breaker.check(info, now)
        pause = max(self._bucket.take(now), self.breaker.pause(info, now) if request.urgent else 0.0)
        if pause:
            await asyncio.sleep(pause)
        try:
            if not request.repeat:
                # On a session that the BMC may have forgotten we would not know whether it obeyed: make sure first.
                await self._attempt(info, Request(*_GET_DEVICE_ID, b"", urgent=request.urgent, bridged=False))
            answer = await self._attempt(info, request)
        except DriverError as error:
            now = self._loop.time()
            self.recorder.note(now, "failed", error.message)
            error.exchange = self.recorder.lines(_LINES_OF_AN_ERROR)
            self._failed_at, self._failure = now, (info, error)
            self.breaker.failed(info, error, now)
            self._hub.failing.add(self)
            raise
        self.breaker.worked()
        self._hub.failing.discard(self)
        return answer

    async def _attempt(self, info: BmcInfo, request: Request) -> tuple[int, bytes]:
        left = self._hub.settings.command_timeout
        patience = PATIENCE
        while True:
            session = self.session
            if session is None or not session.established or (session.info is not info and session.info != info):
                session, seconds = await self._login(info, left, urgent=request.urgent)
                left -= seconds
            started = self._loop.time()
            try:
                code, answer = await self._exchange(session, request, patience, left)
            except (_OutOfTime, _Lost):
                self.recorder.command(self._loop.time(), request.netfn, request.command, request.data, None)
                left -= self._loop.time() - started
                self._drop()
                if not request.repeat:
                    raise refusal.unsure(info, self._loop.time() - started) from None
                if left <= 0:
                    raise refusal.unreachable(info, self._hub.settings.command_timeout, self._cause) from None
                patience = PATIENT
                continue
            now = self._loop.time()
            self.recorder.command(now, request.netfn, request.command, request.data, code, answer)
            left -= now - started
            if not code or left <= _BUSY_PAUSE or not refusal.passes(request.netfn, request.command, code, repeat=request.repeat):
                return code, answer
            left -= _BUSY_PAUSE
            await asyncio.sleep(_BUSY_PAUSE)

    async def _login(self, info: BmcInfo, left: float, *, urgent: bool) -> tuple[BmcSession, float]:
        """Open a session; returns it and the seconds it took, without the wait for admission."""
        self._drop()
        hub = self._hub
        await hub.window.acquire(urgent=urgent)
        self._place = _INSIDE
        if hub.closed:
            self._release()
            raise _stopping(info)
        started = self._loop.time()
        session = self.session = BmcSession(info, self, suite=self._suite, seen=self._seen, hasty=not self._shy)
        hub.sessions += 1
        self._cause = ""
        self._note("login")
        try:
            await self._wait(session.login, min(left, hub.settings.login_timeout), most=left)
        except BaseException as error:
            self._drop()
            if isinstance(error, _OutOfTime):
                raise refusal.unreachable(info, self._loop.time() - started, self._why(session)) from None
            raise
        finally:
            self._release()
        self._suite, self._seen, self._shy = session.suite, session.pace.seen, session.shy
        hub.logins += 1
        hub.window.login_ended(crowded=session.crowded)
        self._note("logged in", f"suite {session.suite}")
        return session, self._loop.time() - started

    async def _exchange(self, session: BmcSession, request: Request, patience: Patience, left: float) -> tuple[int, bytes]:
        netfn, command, data, repeat, _, lun, bridged = request
        answer: tuple[int, bytes]
        try:
            answer = await self._wait(
                lambda: session.request(netfn, command, data, repeat=repeat, patience=patience, lun=lun, bridged=bridged), left
            )
        finally:
            if session.in_flight:
                session.cancel()
        return answer

    async def _wait(self, begin: Callable[[], None], seconds: float, *, most: float = 0.0) -> Any:
        """Run `begin`, which sends, and wait for the session's verdict until the cut-off; at `most` so long if there are answers."""
        waiter = self._waiter = self._loop.create_future()
        self._cutoff, self._looks = self._loop.time() + max(seconds, 0.0), 0
        self._latest = self._loop.time() + most
        try:
            begin()
            return await waiter
        finally:
            self._waiter = None
            self._deadline = self._loop.time() + self._hub.settings.session_idle
            if self._timer is None:
                self._set_timer(self._deadline)

    def _why(self, session: BmcSession) -> str:
        if session.hindrance:
            return session.hindrance
        if session.heard:
            return "it answers, but the login did not come to its end"
        port = self._hub.answers_from(self.peer)
        if port is not None:
            return f"something at its address answers from port {port}, which metald does not take for the BMC: see what translates ports"
        return self._cause

    def _note(self, what: str, detail: str = "") -> None:
        self.recorder.note(self._loop.time(), what, detail)

    def _release(self) -> None:
        place, self._place = self._place, _NONE
        if place == _INSIDE:
            self._hub.window.release()
        elif place == _ASIDE:
            self._hub.window.leave_aside()

    def _drop(self) -> None:
        """Close the session if there is one; the BMC gets its slot back if it still knows it."""
        if self.session is not None:
            self.session.close()
            self.session = None
            self._hub.sessions -= 1
            if self.tenant is not None:
                self.tenant.session_ended()

    def close(self) -> None:
        """End everything at once: the daemon stops or the link is no longer needed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiter, session = self._waiter, self.session
        self._hub.failing.discard(self)
        self._drop()
        if waiter is not None and not waiter.done() and session is not None:
            waiter.set_exception(_stopping(session.info))

    # -- Wire: what the session calls

    def time(self) -> float:
        """See `Wire.time`."""
        return self._loop.time()

    def transmit(self, data: bytes | bytearray) -> None:
        """Send. What the kernel does not take now is sent again by the retry timer."""
        try:
            self._sock.sendto(data, self.peer)
        except OSError as error:
            self._cause = "" if isinstance(error, BlockingIOError) else (error.strerror or "")

    def arm(self, seconds: float) -> None:
        """See `Wire.arm`."""
        self._due = self._loop.time() + seconds
        self._deadline = deadline = min(self._due, self._cutoff)
        if self._timer is None or self._timer.when() > deadline + _SLACK:
            self._set_timer(deadline)

    def logged_in(self) -> None:
        """See `Wire.logged_in`."""
        self._resolve(None)

    def login_failed(self, error: DriverError) -> None:
        """See `Wire.login_failed`."""
        self._note("login refused", error.code)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def answered(self, code: int, data: bytes) -> None:
        """See `Wire.answered`."""
        self._resolve((code, data))

    def lost(self) -> None:
        """See `Wire.lost`."""
        self._note("session lost")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(_Lost())

    def _resolve(self, value: Any) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(value)

    # -- the timer

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        session, now = self.session, self._loop.time()
        if session is None:
            return
        if now < self._deadline - _SLACK:
            self._set_timer(self._deadline)
        elif self._waiter is None:
            self._idle()
        elif self._waiter.done():
            self._set_timer(now + _BEHIND_PAUSE)
        elif self._has_come(session, now):
            if self._timer is None:
                self._set_timer(max(self._deadline, now + _BEHIND_PAUSE))
        elif now >= self._cutoff - _SLACK:
            self._out_of_time(session, now)
        else:
            if self._place == _INSIDE and not session.heard and self._hub.window.step_aside():
                self._place = _ASIDE  # a silent BMC costs next to nothing; it must not keep others from logging in
            session.expired()
            if self._timer is None:
                self._set_timer(min(self._cutoff, now + 1.0))

    def _has_come(self, session: BmcSession, now: float) -> bool:
        """Whether an answer lay unread in the socket, or may: a late loop is no reason to send again, or to give up."""
        if now >= self._cutoff - _SLACK:
            self._looks += 1
            if self._looks > _MOST_LOOKS:
                return False  # what comes all the time is not what is awaited
        before = session.received
        more = self._hub.read(self._sock)
        return more or session.received != before or session is not self.session

    def _out_of_time(self, session: BmcSession, now: float) -> None:
        """The cut-off has come: it moves if the BMC was heard meanwhile."""
        assert self._waiter is not None
        cutoff = min(self._latest, session.heard_at + self._hub.settings.login_timeout)
        if session.established or cutoff <= now + _SLACK:
            self._waiter.set_exception(_OutOfTime())
            return
        self._cutoff = cutoff
        self._deadline = max(now, min(self._due, cutoff))
        self._set_timer(self._deadline)

    def _idle(self) -> None:
        if self._lock.locked() or self.tenant is not None:
            self._set_timer(self._loop.time() + self._hub.settings.session_idle)
            return
        self._note("closed when idle")
        self._drop()


def _stopping(info: BmcInfo) -> BmcUnreachable:
    return BmcUnreachable(f"{info.label} is given up: metald stops.")
