"""The hub: all BMCs of the daemon on a few UDP sockets.

Rules:

- One socket per address family carries every BMC (more by setting). A datagram finds its BMC by the sender's address;
  anything else that arrives is counted and dropped, and never raises.
- Each pass of the loop reads a bounded number of datagrams, so that ten thousand answers at once do not hold up the
  API. While there is more to read, each further pass reads on, and whoever has waited long enough looks there first.
- Names are resolved by the loop, off the hot path, and kept for a minute.
- Logins pass through an admission window; a BMC that says nothing gives its place back at its first timeout.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from metald.config import Ipmi
from metald.drivers.ipmi import refusal
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.link import Link, Peer, Request
from metald.drivers.ipmi.recorder import Moment
from metald.drivers.ipmi.window import AdmissionWindow
from metald.errors import BmcUnreachable

_DRAIN = 12  # datagrams per socket and pass of the loop; 64 made the loop lag over 100 ms when saturated
_DATAGRAM = 2048
_NAME_TTL = 60.0
_NAME_TIMEOUT = 5.0
_MAX_LINKS = 50_000
_RECEIVE_BUFFER = 16 << 20
_SO_RCVBUFFORCE = 33
_LINES_OF_AN_ERROR = 8
_MOST_STRAYS = 256

_background: Final[ContextVar[bool]] = ContextVar("ipmi_background", default=False)


@contextmanager
def background() -> Iterator[None]:
    """Mark the IPMI work of this task as background: its logins give way to those of workflows."""
    token = _background.set(True)
    try:
        yield
    finally:
        _background.reset(token)


class _Name:
    """What a host name resolved to, and until when that is believed."""

    __slots__ = ("addresses", "expires")

    def __init__(self, addresses: deque[tuple[int, Peer]], expires: float) -> None:
        self.addresses = addresses
        self.expires = expires


class IpmiHub:
    """One per daemon. `start` before use, `close` at the end."""

    def __init__(self, settings: Ipmi) -> None:
        self.settings = settings
        self.window = AdmissionWindow(settings.login_window)
        self.closed = False
        self.logins = 0
        self.sessions = 0
        """How many are open or being opened; the links count them."""
        self.failing: set[Link] = set()
        """Links whose last command failed."""
        self.strays = 0
        """Datagrams that came from no BMC we know."""
        self._stray_ports: OrderedDict[str, int] = OrderedDict()
        self._links: OrderedDict[Peer, Link] = OrderedDict()
        self._names: OrderedDict[tuple[str, int], _Name] = OrderedDict()
        self._sockets: dict[int, list[socket.socket]] = {}
        self._next = 0
        self._unread: set[socket.socket] = set()

    async def start(self) -> None:
        """Open the sockets. IPv6 is left out where the host has none.

        Raises:
            OSError: no socket can be opened.
        """
        loop = asyncio.get_running_loop()
        for family in (socket.AF_INET, socket.AF_INET6):
            for _ in range(self.settings.sockets):
                try:
                    sock = _open(family)
                except OSError:
                    if family == socket.AF_INET6:
                        break
                    await self.close()
                    raise
                self._sockets.setdefault(family, []).append(sock)
                loop.add_reader(sock, self._readable, sock)

    async def close(self) -> None:
        """Close all sessions (one datagram each, answers are not awaited) and the sockets."""
        self.closed = True
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._names.clear()
        loop = asyncio.get_running_loop()
        for sock in (sock for socks in self._sockets.values() for sock in socks):
            loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    async def raw(
        self, info: BmcInfo, netfn: int, command: int, data: bytes = b"", *, idempotent: bool = True, lun: int = 0, bridged: bool = True
    ) -> bytes:
        """Send a command to a BMC and return its data, without the completion code.

        Args:
            info: which BMC.
            netfn: the function.
            command: its command.
            data: the command's data.
            idempotent: False for what must not happen twice (a reset): it is sent exactly once.
            lun: the unit within the controller.
            bridged: False speaks with the BMC itself where the node's commands go to a controller behind it.

        Raises:
            DriverError: unreachable, login refused, or a completion code other than 0 (`CompletionCode`).
        """
        link = await self.link(info)
        try:
            code, answer = await link.command(info, Request(netfn, command, data, idempotent, not _background.get(), lun, bridged))
        except BmcUnreachable:
            self._try_next_address(info)
            raise
        if code:
            error = refusal.refused(info, netfn, command, code)
            error.exchange = link.recorder.lines(_LINES_OF_AN_ERROR)
            raise error
        return answer

    @asynccontextmanager
    async def holding(self, info: BmcInfo) -> AsyncIterator[None]:
        """Keep a BMC's session between the commands of background work, which would otherwise log in for each.

        Raises:
            BmcUnreachable: see `link`.
        """
        link = await self.link(info)
        with link.held(urgent=not _background.get()):
            yield

    def history(self, info: BmcInfo) -> list[Moment]:
        """The recent exchange with a BMC, oldest first."""
        link = self._known(info)
        return list(link.recorder.moments) if link else []

    def exchange(self, info: BmcInfo) -> list[dict[str, Any]]:
        """The recent exchange with a BMC as JSON values, oldest first, without secrets."""
        link = self._known(info)
        return link.recorder.export(asyncio.get_running_loop().time()) if link else []

    def _known(self, info: BmcInfo) -> Link | None:
        name = self._names.get((info.address, info.port))
        return self._links.get(name.addresses[0][1]) if name else None

    @property
    def left_alone(self) -> int:
        """How many BMCs background work leaves alone now, because they failed again and again."""
        now = asyncio.get_running_loop().time()
        return sum(link.breaker.is_open(now) for link in self.failing)

    def answers_from(self, peer: Peer) -> int | None:
        """The port from which something answered of late at the address of a BMC that says nothing itself."""
        return self._stray_ports.get(peer[0])

    # -- addresses

    async def link(self, info: BmcInfo) -> Link:
        """The way to a BMC.

        Raises:
            BmcUnreachable: its name has no address that this host can reach.
        """
        name = self._names.get((info.address, info.port))
        if name is None or name.expires < asyncio.get_running_loop().time():
            name = await self._resolve(info)
        family, peer = name.addresses[0]
        link = self._links.get(peer)
        if link is None:
            socks = self._sockets.get(family)
            if not socks:
                raise refusal.unknown_name(info, "this host has no socket of that address family")
            self._next += 1
            link = self._links[peer] = Link(self, socks[self._next % len(socks)], peer)
            self._forget_some()
        return link

    async def _resolve(self, info: BmcInfo) -> _Name:
        loop = asyncio.get_running_loop()
        expires = float("inf")
        try:
            found = socket.getaddrinfo(info.address, info.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            expires = loop.time() + _NAME_TTL
            try:
                async with asyncio.timeout(_NAME_TIMEOUT):
                    found = await loop.getaddrinfo(info.address, info.port, type=socket.SOCK_DGRAM)
            except TimeoutError:
                raise refusal.unknown_name(info, f"no answer within {_NAME_TIMEOUT:g} seconds") from None
            except (OSError, UnicodeError) as error:
                raise refusal.unknown_name(info, getattr(error, "strerror", None) or "not a name") from None
        usable: deque[tuple[int, Peer]] = deque((family, peer) for family, _, _, _, peer in found if family in self._sockets)
        if not usable:
            raise refusal.unknown_name(info, "this host has no socket of that address family")
        name = self._names[info.address, info.port] = _Name(usable, expires)
        while len(self._names) > _MAX_LINKS:
            self._names.popitem(last=False)
        return name

    def _try_next_address(self, info: BmcInfo) -> None:
        """A name with several addresses: the next call tries another one."""
        name = self._names.get((info.address, info.port))
        if name is not None:
            name.addresses.rotate(-1)

    def _forget_some(self) -> None:
        """Links of BMCs that are long gone must not pile up."""
        if len(self._links) > _MAX_LINKS:
            for peer, link in list(self._links.items())[: _MAX_LINKS // 10]:
                if link.idle:
                    link.close()
                    del self._links[peer]

    # -- datagrams

    def _readable(self, sock: socket.socket) -> None:
        self._unread.discard(sock)
        if self.read(sock) and sock not in self._unread:
            self._unread.add(sock)
            asyncio.get_running_loop().call_soon(self._read_on, sock)

    def _read_on(self, sock: socket.socket) -> None:
        if sock in self._unread and not self.closed:
            self._readable(sock)

    def read(self, sock: socket.socket) -> bool:
        """Take datagrams that have come, at most some; whether there may be more."""
        links = self._links
        for _ in range(_DRAIN):
            try:
                data, peer = sock.recvfrom(_DATAGRAM)
            except BlockingIOError:
                return False
            except OSError:
                continue  # an ICMP error of some earlier datagram
            link = links.get(peer)
            session = link.session if link is not None else None
            if session is None:
                self._stray(peer)
            else:
                session.datagram(data)
        return True

    def _stray(self, peer: Peer) -> None:
        self.strays += 1
        if peer not in self._links:
            self._stray_ports[peer[0]] = peer[1]
            if len(self._stray_ports) > _MOST_STRAYS:
                self._stray_ports.popitem(last=False)


def _open(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):  # the first needs CAP_NET_ADMIN
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, _RECEIVE_BUFFER)
                break
        sock.bind(("", 0))
    except OSError:
        sock.close()
        raise
    return sock
