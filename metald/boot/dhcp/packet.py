"""DHCPv4 datagrams: pure reading and writing of RFC 2131 packets and their options (RFC 2132).

Rules: whatever bytes come in, the answer is a packet or `Malformed`. An option that comes in several pieces is one
(RFC 3396), also where it goes on in the fields `file` and `sname` (option 52). Firmware is sloppy: a missing end, a
short last option and padding are passed over; a missing cookie or an impossible head is not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address

REQUEST, REPLY = 1, 2
ETHERNET = 1
MAX_DATAGRAM = 4096
BROADCAST_FLAG = 0x8000
NOWHERE = IPv4Address(0)

_HEAD = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_LEAST = 300
"""Shortest datagram that is sent: some relays drop shorter ones (RFC 1542 section 2.1)."""


class Malformed(ValueError):
    """The bytes are no DHCP datagram."""


class Kind(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """Options that are read or written (RFC 2132, 3004, 4578; 175 is iPXE's own)."""

    PAD = 0
    NETMASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    VENDOR_SPECIFIC = 43
    ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    MESSAGE = 56
    RENEWAL = 58
    REBINDING = 59
    VENDOR_CLASS = 60
    TFTP_SERVER = 66
    BOOT_FILE = 67
    USER_CLASS = 77
    RELAY = 82
    ARCHITECTURE = 93
    NETWORK_INTERFACE = 94
    MACHINE = 97
    IPXE = 175
    END = 255


@dataclass(frozen=True, slots=True)
class Packet:
    """A datagram. Addresses that are not given are 0.0.0.0."""

    op: int
    transaction: int
    hardware: bytes
    """The client's hardware address, `hlen` bytes."""
    kind: int = 0
    """Option 53; 0 when there is none, as in BOOTP."""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """All others but 52."""
    hardware_type: int = ETHERNET
    seconds: int = 0
    flags: int = 0
    hops: int = 0
    client: IPv4Address = NOWHERE
    yours: IPv4Address = NOWHERE
    server: IPv4Address = NOWHERE
    relay: IPv4Address = NOWHERE
    server_name: bytes = b""
    file: bytes = b""

    @property
    def mac(self) -> str | None:
        """The MAC address, lower case with colons; None when it is not Ethernet's."""
        if self.hardware_type != ETHERNET or len(self.hardware) != 6 or not any(self.hardware):
            return None
        return self.hardware.hex(":")

    def address(self, option: Option) -> IPv4Address | None:
        """An option's value as an address, if it is one."""
        value = self.options.get(option, b"")
        return IPv4Address(value) if len(value) == 4 else None


def parse(datagram: bytes) -> Packet:
    """Read a datagram.

    Raises:
        Malformed: it is none of DHCP's.
    """
    if not _HEAD.size <= len(datagram) <= MAX_DATAGRAM:
        raise Malformed("no DHCP datagram has this length")
    op, htype, hlen, hops, transaction, seconds, flags, *rest = _HEAD.unpack_from(datagram)
    client, yours, server, relay, hardware, name, file, cookie = rest
    if cookie != _COOKIE or op not in (REQUEST, REPLY) or hlen > 16:
        raise Malformed("not a DHCP datagram")
    options: dict[int, bytes] = {}
    _read(datagram[_HEAD.size :], options)
    # The fields that hold options are read in this order (RFC 2131 section 4.1), and hold no names then.
    overload = options.pop(Option.OVERLOAD, b"\0")[:1]
    if overload in (b"\1", b"\3"):
        _read(file, options)
        file = b""
    if overload in (b"\2", b"\3"):
        _read(name, options)
        name = b""
    options.pop(Option.OVERLOAD, None)
    kind = options.pop(Option.KIND, b"")
    return Packet(
        op,
        transaction,
        hardware[:hlen],
        kind[0] if len(kind) == 1 else 0,
        options,
        htype,
        seconds,
        flags,
        hops,
        IPv4Address(client),
        IPv4Address(yours),
        IPv4Address(server),
        IPv4Address(relay),
        name.partition(b"\0")[0],
        file.partition(b"\0")[0],
    )


def encode(packet: Packet) -> bytes:
    """Write a datagram. A boot file's name that is too long for its field stands in its option alone."""
    file = packet.file if len(packet.file) < 128 else b""
    head = _HEAD.pack(
        packet.op,
        packet.hardware_type,
        len(packet.hardware),
        packet.hops,
        packet.transaction,
        packet.seconds,
        packet.flags,
        *(address.packed for address in (packet.client, packet.yours, packet.server, packet.relay)),
        packet.hardware,
        packet.server_name[:63],
        file,
        _COOKIE,
    )
    options = b"".join(_option(code, value) for code, value in packet.options.items() if code not in (0, 255))
    kind = bytes((Option.KIND, 1, packet.kind)) if packet.kind else b""
    return (head + kind + options + b"\xff").ljust(_LEAST, b"\0")


def encapsulate(options: Mapping[int, bytes]) -> bytes:
    """Options within an option (43, 175), with the end that PXE wants."""
    return b"".join(_option(code, value) for code, value in options.items()) + b"\xff"


def encapsulated(value: bytes) -> dict[int, bytes]:
    """What `encapsulate` wrote."""
    options: dict[int, bytes] = {}
    _read(value, options)
    return options


def _option(code: int, value: bytes) -> bytes:
    pieces = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def _read(data: bytes, options: dict[int, bytes]) -> None:
    at = 0
    while at < len(data):
        code = data[at]
        if code == Option.END:
            return
        if code == Option.PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            return
        size = data[at + 1]
        options[code] = options.get(code, b"") + data[at + 2 : at + 2 + size]
        at += 2 + size
