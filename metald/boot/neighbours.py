"""Which MAC address the kernel knows for a neighbour's IP address, IPv4 and IPv6: two questions by netlink, no table to read.

The first asks by which interface the address is reached, and whether directly (RTM_GETROUTE); the second what the neighbour
table of that interface has (RTM_GETNEIGH). Each is answered by the kernel at once, so both may be asked on the loop.

Source: rtnetlink(7), <linux/rtnetlink.h>, <linux/neighbour.h>. Kernels before 5.0 do not answer for a single neighbour.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address

_ROUTE_FAMILY = 0  # NETLINK_ROUTE
_NEW_ROUTE, _GET_ROUTE, _NEW_NEIGH, _GET_NEIGH = 24, 26, 28, 30
_ERROR = 2
_REQUEST = 1
_HEAD = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NEIGH = struct.Struct("=BBHiHBB")  # struct ndmsg
_ATTRIBUTE = struct.Struct("=HH")
_DST, _OIF, _GATEWAY = 1, 4, 5
_LLADDR = 2
_UNICAST = 1  # RTN_UNICAST
_FAILED = 0x20  # NUD_FAILED
_LONGEST = 8192
_WAIT = 0.5


def neighbour(address: str) -> str | None:
    """The MAC address that the kernel's neighbour table holds for an address on one of our wires.

    Args:
        address: IPv4 or IPv6, without a zone.

    Returns:
        Lower case with colons. None when the address is behind a router, our own, or not in the table.
    """
    try:
        packed = ip_address(address).packed
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE_FAMILY) as netlink:
            netlink.settimeout(_WAIT)
            index = _interface(netlink, packed)
            return _mac(netlink, packed, index) if index else None
    except (OSError, ValueError):
        return None


def _interface(netlink: socket.socket, packed: bytes) -> int:
    """The interface on which the address is a neighbour; 0 when it is none."""
    head = _ROUTE.pack(_family(packed), len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body = _ask(netlink, _GET_ROUTE, head + _attribute(_DST, packed), _NEW_ROUTE)
    if _ROUTE.unpack_from(body)[7] != _UNICAST:
        return 0
    found = dict(_attributes(body[_ROUTE.size :]))
    return 0 if _GATEWAY in found or _OIF not in found else int.from_bytes(found[_OIF], sys.byteorder)


def _mac(netlink: socket.socket, packed: bytes, index: int) -> str | None:
    head = _NEIGH.pack(_family(packed), 0, 0, index, 0, 0, 0)
    body = _ask(netlink, _GET_NEIGH, head + _attribute(_DST, packed), _NEW_NEIGH)
    found = dict(_attributes(body[_NEIGH.size :])).get(_LLADDR, b"")
    known = len(found) == 6 and any(found) and not _NEIGH.unpack_from(body)[4] & _FAILED
    return found.hex(":") if known else None


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _ask(netlink: socket.socket, kind: int, body: bytes, wanted: int) -> bytes:
    """One question; the body of its answer.

    Raises:
        OSError: the kernel says no.
    """
    netlink.send(_HEAD.pack(_HEAD.size + len(body), kind, _REQUEST, 1, 0) + body)
    answer = netlink.recv(_LONGEST)
    size, told, *_ = _HEAD.unpack_from(answer)
    if told != wanted:
        number = int.from_bytes(answer[_HEAD.size : _HEAD.size + 4], sys.byteorder, signed=True) if told == _ERROR else -errno.EPROTO
        raise OSError(-number, "netlink")
    return answer[_HEAD.size : size]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
