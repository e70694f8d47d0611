"""The sockets of the TFTP server: which address a request came to, a window of datagrams in one system call, and one
wait for all transfers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metald.boot.tftp.packet import MAX_REQUEST
from metald.boot.tftp.transfer import DEFAULT_BLKSIZE

Address = tuple[Any, ...]
"""A socket address as Python has it: (host, port), and (host, port, flow, scope) for IPv6."""

# From <linux/in.h>, <linux/in6.h>, <linux/udp.h>, <asm-generic/socket.h>; Python's socket module lacks some of them.
_IP_PKTINFO, _IP_MTU = 8, 14
_IPV6_MTU = 24
_SOL_UDP, _UDP_SEGMENT = 17, 103
_SO_RCVBUFFORCE = 33
_INFO4 = struct.Struct("=I4s4s")
_INFO6 = struct.Struct("=16sI")
_HEADERS = {socket.AF_INET: 20 + 8 + 4, socket.AF_INET6: 40 + 8 + 4}
_RECEIVE_BUFFER = 4 << 20
_MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS of kernels before 6.9
_MOST_BYTES = 65000
_LONGEST_ANSWER = 256  # an ACK has 4 bytes, an ERROR a text
_HEARD_AT_ONCE = 64
_ROUNDS = 4
_WORTHWHILE = 2
_CROWD = 128
_REST = 0.001
_NO_GSO = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that came to a listening socket."""

    data: bytes
    peer: Address
    local: Address
    """The address it was sent to, with port 0: what an answer is sent from."""


class Listener:
    """A listening socket that tells which of the host's addresses a request was sent to.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = sock = socket.socket(self.family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # needs a privilege; the default buffer holds 100 requests
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            if self.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind((host, port))
        except BaseException:
            sock.close()
            raise

    def fileno(self) -> int:
        """For the loop."""
        return self._socket.fileno()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def close(self) -> None:
        """Free the port."""
        self._socket.close()

    def receive(self) -> Arrival | None:
        """A datagram that has arrived, or None. One that was broadcast is not counted (RFC 1123 section 4.2.3.2).

        Raises:
            BlockingIOError: none is there.
        """
        data, ancillary, _, peer = self._socket.recvmsg(MAX_REQUEST + 1, 256)
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                _, local, sent_to = _INFO4.unpack_from(value)
                if local != sent_to:
                    return None
                return Arrival(data, peer, (socket.inet_ntop(socket.AF_INET, local), 0))
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                sent_to, index = _INFO6.unpack_from(value)
                if sent_to[0] == 0xFF:
                    return None
                scope = index if sent_to[:2] == b"\xfe\x80" else 0
                return Arrival(data, peer, (socket.inet_ntop(socket.AF_INET6, sent_to), 0, 0, scope))
        return None

    def answer(self, arrival: Arrival, data: bytes) -> None:
        """Send one datagram back, from the address that was asked; lost when the socket is full."""
        with contextlib.suppress(OSError):
            self.send(data, _from(arrival), arrival.peer)

    def send(self, data: bytes | memoryview, ancillary: list[Ancillary], peer: Address) -> None:
        """Send to somebody.

        Raises:
            OSError: it cannot be sent.
        """
        self._socket.sendmsg([data], ancillary, 0, peer)


Ancillary = tuple[int, int, bytes]


def _from(arrival: Arrival) -> list[Ancillary]:
    """Have a datagram leave from the address that was asked."""
    if len(arrival.local) == 2:
        local = socket.inet_pton(socket.AF_INET, arrival.local[0])
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _INFO4.pack(0, local, local))]
    local = socket.inet_pton(socket.AF_INET6, arrival.local[0])
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _INFO6.pack(local, arrival.local[3]))]


class Path:
    """A socket connected to one client, from the address it asked: what a transfer sends through.

    Raises:
        OSError: there is no socket left, or no way to the client.
    """

    __slots__ = ("_ears", "_family", "_gso", "_socket")

    def __init__(self, arrival: Arrival) -> None:
        self._ears: Ears | None = None
        self._family = socket.AF_INET6 if len(arrival.local) == 4 else socket.AF_INET
        self._gso = 0
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(arrival.local)
            self._socket.connect(arrival.peer)
        except BaseException:
            self._socket.close()
            raise

    def listen(self, ears: Ears, reader: Callable[[], None]) -> None:
        """Call `reader`, which must not raise, while the client has said something."""
        ears.add(self._socket.fileno(), reader)
        self._ears = ears

    def close(self) -> None:
        """Free the port."""
        if self._ears is not None:
            self._ears.remove(self._socket.fileno())
            self._ears = None
        self._socket.close()

    def max_blksize(self) -> int:
        """The block size that fills the path's MTU without fragments."""
        level, option = (socket.IPPROTO_IP, _IP_MTU) if self._family == socket.AF_INET else (socket.IPPROTO_IPV6, _IPV6_MTU)
        try:
            mtu = self._socket.getsockopt(level, option)
        except OSError:
            return DEFAULT_BLKSIZE
        return max(DEFAULT_BLKSIZE, mtu - _HEADERS[self._family])

    def segment(self, size: int) -> None:
        """Let the kernel cut what is sent into datagrams of `size` bytes, where it can.

        Single datagrams must not be longer than `size` from then on.
        """
        if 2 * size > _MOST_BYTES:
            return
        try:
            self._socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, size)
        except OSError:
            return
        self._gso = size

    def receive(self) -> bytes:
        """One datagram of the client, the end of a long one cut off.

        Raises:
            BlockingIOError: none is there.
            ConnectionRefusedError: the client's port is closed.
        """
        return self._socket.recv(_LONGEST_ANSWER)

    def send(self, data: bytes | memoryview, segment: int) -> None:
        """Send datagrams that lie one behind the other, each `segment` bytes long but for the last.

        What does not fit the socket's buffer is lost, as on the wire.

        Raises:
            ConnectionRefusedError: the client's port is closed.
            OSError: there is no way to the client.
        """
        try:
            if len(data) <= segment:
                self._emit(data)
            elif segment == self._gso:
                self._send_segmented(data, segment)
            else:
                self._send_singly(data, segment)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return
            if not self._gso or error.errno not in _NO_GSO:
                raise
            self._without_gso(data, segment)

    def _send_segmented(self, data: bytes | memoryview, segment: int) -> None:
        step = min(_MOST_SEGMENTS, _MOST_BYTES // segment) * segment
        if len(data) <= step:
            self._emit(data)
            return
        view = memoryview(data)
        for at in range(0, len(data), step):
            self._emit(view[at : at + step])

    def _send_singly(self, data: bytes | memoryview, segment: int) -> None:
        view = memoryview(data)
        for at in range(0, len(data), segment):
            self._emit(view[at : at + segment])

    def _without_gso(self, data: bytes | memoryview, segment: int) -> None:
        # A device without checksum offload answers EIO, a path whose MTU shrank EINVAL or EMSGSIZE.
        self._gso = 0
        self._cut_off()
        with contextlib.suppress(BlockingIOError):
            self._send_singly(data, segment)

    def _emit(self, data: bytes | memoryview) -> None:
        self._socket.send(data)

    def _cut_off(self) -> None:
        self._socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)


class SharedPath(Path):
    """The way to one client through the listening socket, so that all comes from the port that was asked.

    Address translation and firewalls that do not know TFTP let nothing else through. What the client says arrives at the
    listening socket and is handed to its session there.
    """

    __slots__ = ("_ancillary", "_listener", "_mtu", "_peer", "_segmented")

    def __init__(self, arrival: Arrival, listener: Listener) -> None:
        super().__init__(arrival)
        # Only to learn the path's MTU, and whether there is a way at all.
        self._mtu = super().max_blksize()
        self._socket.close()
        self._listener = listener
        self._peer = arrival.peer
        self._ancillary = _from(arrival)
        self._segmented = self._ancillary

    def listen(self, ears: Ears, reader: Callable[[], None]) -> None:
        """The listening socket is heard already."""

    def max_blksize(self) -> int:
        """See `Path`."""
        return self._mtu

    def segment(self, size: int) -> None:
        """See `Path`; the kernel is told with every datagram, for the socket is everybody's."""
        if 2 * size <= _MOST_BYTES:
            self._gso = size
            self._segmented = [*self._ancillary, (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))]

    def _emit(self, data: bytes | memoryview) -> None:
        self._listener.send(data, self._segmented if len(data) > self._gso else self._ancillary, self._peer)

    def _cut_off(self) -> None:
        self._segmented = self._ancillary


class Ears:
    """Waits for all transfers at once: one epoll of their sockets, which is one descriptor for the loop.

    A loop that has each socket itself spends as long on handing over a datagram as the kernel on sending one. A turn of the loop
    costs as much again, so a crowd is heard every millisecond, many at once: a machine of a crowd waits longer than that for
    its turn anyway. Fewer than `_CROWD` are heard as they speak.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._epoll.fileno(), self._hear)

    def add(self, descriptor: int, reader: Callable[[], None]) -> None:
        """Call `reader`, which must not raise, while there is something to read."""
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Before the socket is closed."""
        del self._readers[descriptor]
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Once nobody is heard any more."""
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _hear(self) -> None:
        # What came meanwhile is taken at once: another turn of the loop costs more than several datagrams.
        readers = self._readers
        for _round in range(_ROUNDS):
            heard = self._epoll.poll(0, _HEARD_AT_ONCE)
            for descriptor, _ in heard:
                reader = readers.get(descriptor)
                if reader is not None:
                    reader()
            if len(heard) < _WORTHWHILE:
                if len(readers) >= _CROWD:
                    self._loop.remove_reader(self._epoll.fileno())
                    self._rest = self._loop.call_later(_REST, self._rested)
                return

    def _rested(self) -> None:
        self._rest = None
        self._loop.add_reader(self._epoll.fileno(), self._hear)
        self._hear()
