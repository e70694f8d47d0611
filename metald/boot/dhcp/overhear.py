"""Overhears the DHCP of other servers, so that the boot doctor knows what machines asked and what they were told.

A packet socket for each interface sees what is broadcast there, and all of it where the other server runs on this very host. It
answers nobody. The kernel lets through what goes to the ports of DHCP and PXE, and nothing else.

Rules: nothing that it reads can make it raise. Only machines that boot are told of: those that say so, and nodes that are to load
something. With a provider of our own only the answers of others are news; it is then listened to of itself, as far as this process may.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
import time
from collections import OrderedDict
from typing import Any

from metald.boot import credentials
from metald.boot.dhcp.machine import Machine, machine
from metald.boot.dhcp.once import Once
from metald.boot.dhcp.packet import MAX_DATAGRAM, REPLY, REQUEST, Kind, Malformed, Option, Packet, parse
from metald.boot.directory import BootDirectory
from metald.boot.files import BootFiles
from metald.config import Settings

_ALL, _IPV4 = 0x0003, 0x0800  # ETH_P_ALL, without which nothing is seen of what this host sends; ETH_P_IP
_OUTGOING = 4  # PACKET_OUTGOING of <linux/if_packet.h>
_SO_ATTACH_FILTER = 26
_UDP = 17
_AT_ONCE = 32
_BUFFER = 1 << 20
_MOST_ASKERS = 8192
_KINDS = frozenset(map(int, Kind))
_HEADERS = 60 + 8  # the longest of IPv4 and that of UDP
_PORTS = (67, 68, 4011)

# Classic BPF over a packet from its network header on: IPv4, UDP, not a later fragment, to one of the ports (<linux/filter.h>).
_FILTER = (
    (0x28, 0, 0, 0xFFFFF000),  # A = the frame's protocol (SKF_AD_PROTOCOL)
    (0x15, 0, 10, _IPV4),
    (0x30, 0, 0, 9),  # A = the protocol
    (0x15, 0, 8, _UDP),
    (0x28, 0, 0, 6),  # A = flags and fragment offset
    (0x45, 6, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # X = length of the header
    (0x48, 0, 0, 2),  # A = the port that it goes to
    (0x15, 2, 0, _PORTS[0]),
    (0x15, 1, 0, _PORTS[1]),
    (0x15, 0, 1, _PORTS[2]),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)

_log = logging.getLogger(__name__)


class Overhearing:
    """Listens on the interfaces of `dhcp.watch`, without them on those on which a provider of our own answers."""

    def __init__(self, directory: BootDirectory, files: BootFiles, settings: Settings) -> None:
        self._directory, self._files = directory, files
        dhcp = settings.dhcp
        self._answering = dhcp.provider in ("proxy", "lease")
        self._demanded = bool(dhcp.watch)
        self._interfaces = tuple(dhcp.watch or (dhcp.interfaces if self._answering else ()))
        self._sockets: list[socket.socket] = []
        self._once = Once()
        self._askers: OrderedDict[tuple[str, int], Machine] = OrderedDict()

    async def start(self) -> None:
        """Open the sockets.

        Raises:
            OSError: there is no such interface, or this process may not (CAP_NET_RAW), and `dhcp.watch` asks for it.
        """
        loop = asyncio.get_running_loop()
        try:
            for interface in self._interfaces:
                sock = _open(interface)
                self._sockets.append(sock)
                loop.add_reader(sock.fileno(), self._readable, sock)
        except BaseException as error:
            self.close()
            if self._demanded or not isinstance(error, OSError):
                raise
            _log.info("DHCP: other servers are not looked for on %s: %s", ", ".join(self._interfaces), error)

    def close(self) -> None:
        """Listen no more."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, address = sock.recvfrom(_HEADERS + MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # the interface is down
                _log.debug("DHCP: %s", error)
                return
            if self._answering and address[2] == _OUTGOING:
                continue
            try:
                self.heard(data)
            except Exception:
                _log.exception("DHCP: what was overheard cannot be understood")

    def heard(self, data: bytes) -> None:
        """Take an IPv4 packet."""
        payload = _payload(data)
        try:
            found = parse(payload)
        except Malformed:
            return
        if found.mac is None or found.kind not in _KINDS:
            return
        if found.op == REQUEST:
            self._asked(found)
        elif found.op == REPLY:
            self._answered(found)

    def _asked(self, request: Packet) -> None:
        asker = machine(request)
        if asker is None:
            return
        self._askers[asker.mac, request.transaction] = asker
        if len(self._askers) > _MOST_ASKERS:
            self._askers.popitem(last=False)
        if self._answering:  # then the question comes to our server too, which tells of it
            return
        chosen = request.address(Option.SERVER)
        self._tell(asker, {"asked": Kind(request.kind).name.lower(), "server": str(chosen) if chosen else None})

    def _answered(self, reply: Packet) -> None:
        kind, mac = Kind(reply.kind), reply.mac
        if kind not in (Kind.OFFER, Kind.ACK, Kind.NAK) or mac is None:
            return
        asker = self._askers.get((mac, reply.transaction)) or Machine(mac, "system", "", "bios", "")
        server = reply.address(Option.SERVER)
        file = reply.file or reply.options.get(Option.BOOT_FILE, b"").rstrip(b"\0")
        given = str(reply.yours) if int(reply.yours) else None
        node = self._directory.node_by_mac(mac)
        if given is not None and kind is Kind.ACK and node is not None:
            self._files.clients.learn(given, node.uuid)
        facts = {
            "answer": kind.name.lower(),
            "server": str(server) if server else None,
            "file": file.decode("ascii", "backslashreplace")[:200] or None,
            "client": given,
        }
        self._tell(asker, facts)

    def _tell(self, asker: Machine, facts: dict[str, Any]) -> None:
        node = self._directory.node_by_mac(asker.mac)
        booting = node is not None and credentials.wants_ramdisk(node)
        if asker.firmware == "system" and not booting:
            return
        key = (asker.mac, asker.firmware, *(str(facts.get(name) or "") for name in ("asked", "answer", "server", "file")))
        count = self._once.fresh(key, time.monotonic())
        if not count:
            return
        data = {
            "mac": asker.mac,
            "firmware": asker.firmware,
            "architecture": asker.architecture or None,
            **({"machine_id": bool(asker.id), "machine": asker.id or None} if "asked" in facts else {}),
            **facts,
            "overheard": True,
            "count": count,
        }
        kept = {name: value for name, value in data.items() if value is not None}
        self._directory.seen("node.dhcp", node_uuid=node.uuid if node is not None else None, data=kept)


def _payload(packet: bytes) -> bytes:
    """What a UDP datagram in an IPv4 packet carries; empty when it is none."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return b""
    start = (packet[0] & 0xF) * 4 + 8
    return packet[start : int.from_bytes(packet[2:4], "big")]


def _open(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        program = b"".join(struct.pack("=HBBI", *each) for each in _FILTER)
        kept = ctypes.create_string_buffer(program)
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(kept)))
        # Bound last: before, it hears nothing, so nothing comes through without the filter.
        sock.bind((interface, _ALL))
    except BaseException:
        sock.close()
        raise
    return sock
