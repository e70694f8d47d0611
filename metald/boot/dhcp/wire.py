"""The sockets of the DHCP server: bound to one interface, knowing which of its addresses a request concerns."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from metald.boot.dhcp.packet import MAX_DATAGRAM

_IP_PKTINFO = 8  # <linux/in.h>; Python's socket module has it from 3.12 on
_INFO = struct.Struct("=I4s4s")
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that came."""

    data: bytes
    peer: tuple[str, int]
    own: IPv4Address
    """Our address on the network it came from, also when it was broadcast."""


class DhcpSocket:
    """A port on one interface.

    Raises:
        OSError: no such interface, or the port cannot be bound.
    """

    def __init__(self, interface: str, port: int) -> None:
        self._index = socket.if_nametoindex(interface)
        self._socket = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind(("", port))
        except BaseException:
            sock.close()
            raise

    def fileno(self) -> int:
        """For the loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Free the port."""
        self._socket.close()

    def receive(self) -> Arrival | None:
        """A datagram; None when it is not known where it came to.

        Raises:
            BlockingIOError: none is there.
        """
        data, ancillary, _, peer = self._socket.recvmsg(MAX_DATAGRAM + 1, 256)
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                _, local, _ = _INFO.unpack_from(value)
                return Arrival(data, peer, IPv4Address(local))
        return None

    def send(self, data: bytes, to: tuple[str, int], own: IPv4Address) -> None:
        """Send from our address, out of this interface, whatever the routes say.

        Raises:
            OSError: it cannot be sent.
        """
        info = _INFO.pack(self._index, own.packed, own.packed)
        self._socket.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, to)
