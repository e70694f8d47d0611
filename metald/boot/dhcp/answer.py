"""What a DHCP request is answered. Pure: a packet, the address it came to and the time go in, an answer comes out.

As a proxy (PXE 2.1 section 2.2.1) only the boot file is told, to machines that boot from the network, beside a DHCP server
that hands out addresses and knows nothing of us: an offer without an address at port 67, the same again at port 4011 for
firmware that asks there. With leases the answers are whole (RFC 2131).

Rules: nobody is answered but the machines that `known` names. Offers go by broadcast, or through the relay they came from;
a client that has an address gets its answer there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Literal

from metald.boot.dhcp.leases import Leases, Range
from metald.boot.dhcp.machine import Machine, machine
from metald.boot.dhcp.packet import BROADCAST_FLAG, NOWHERE, REPLY, REQUEST, Kind, Option, Packet, encapsulate

SERVER_PORT, CLIENT_PORT, BINL_PORT = 67, 68, 4011

_KINDS = frozenset(map(int, Kind))
_DISCOVERY_CONTROL, _NO_DISCOVERY = 6, b"\x08"
"""PXE 2.1 table 2-1: load the boot file that is named and ask no boot server."""
_IPXE_NO_PROXY = 176
_KEPT_BACK = "the machine is no port that boots from the network"


@dataclass(frozen=True, slots=True)
class BootFile:
    """Where a machine finds what it loads first."""

    server: IPv4Address
    name: str
    """A file on the TFTP server, or a URL."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    machine: Machine
    asked: Kind
    reply: Packet | None = None
    to: Literal["everybody", "client", "relay", "sender"] = "everybody"
    file: str = ""
    server: str = ""
    """Another DHCP server, which the machine chose."""
    error: str = ""
    """Why the machine will not boot by this; empty when all is well."""


class Answers:
    """Answers requests.

    Args:
        boot_file: what a machine is to load, told the address at which we were asked; an error's text when there is nothing.
        known: whether a MAC address is to be answered, and whether it boots from the network.
        leases: hands out addresses; None for a proxy.
        dns: servers that are told with an address.
    """

    def __init__(
        self,
        boot_file: Callable[[Machine, IPv4Address], BootFile | str],
        known: Callable[[str], tuple[bool, bool]],
        leases: Leases | None = None,
        dns: tuple[IPv4Address, ...] = (),
    ) -> None:
        self._boot_file = boot_file
        self._known = known
        self.leases = leases
        self._dns = b"".join(address.packed for address in dns)

    def answer(self, request: Packet, own: IPv4Address, port: int, now: float) -> Answer | None:
        """The answer to a request; None when it is not ours to speak of.

        Args:
            own: our address on the network it came from.
            port: ours that it came to.
            now: seconds since the epoch.
        """
        asker = machine(request) if request.op == REQUEST and request.kind in _KINDS else None
        if asker is None:
            return None
        answered, boots = self._known(asker.mac)
        if not answered:
            return Answer(asker, Kind(request.kind), error=_KEPT_BACK) if asker.firmware != "system" else None
        if self.leases is None or port == BINL_PORT:
            return self._as_proxy(request, asker, own, port) if boots else None
        return self._with_lease(self.leases, request, asker, own, now, boots)

    # -- beside another server

    def _as_proxy(self, request: Packet, asker: Machine, own: IPv4Address, port: int) -> Answer | None:
        wanted = (Kind.REQUEST, Kind.INFORM) if port == BINL_PORT else (Kind.DISCOVER,)
        chosen = request.address(Option.SERVER) if port == SERVER_PORT and request.kind == Kind.REQUEST else None
        if asker.firmware != "system" and chosen not in (None, own):
            return Answer(asker, Kind.REQUEST, server=str(chosen))  # whose address it takes, beside which we are
        if asker.firmware == "system" or request.kind not in wanted:
            return None
        asked = Kind(request.kind)
        found = self._boot_file(asker, own)
        if isinstance(found, str):
            return Answer(asker, asked, error=found) if found else None
        kind = Kind.ACK if port == BINL_PORT else Kind.OFFER
        reply = _with_boot_file(_reply(request, kind, own), asker, found, proxy=True)
        to = "sender" if port == BINL_PORT else "relay" if request.relay != NOWHERE else "everybody"
        return Answer(asker, asked, reply, to, found.name)  # type: ignore[arg-type]

    # -- alone

    def _with_lease(self, leases: Leases, request: Packet, asker: Machine, own: IPv4Address, now: float, boots: bool) -> Answer | None:
        within = leases.range_of(request.relay if request.relay != NOWHERE else own)
        if within is None:
            return Answer(asker, Kind(request.kind), error=f"dhcp.ranges has no range for the network of {own}")
        match request.kind:
            case Kind.DISCOVER:
                address = leases.offer(asker.mac, request.address(Option.ADDRESS), within, own, now)
                if address is None:
                    return Answer(asker, Kind.DISCOVER, error=f"no address is left of {within.first} to {within.last}; widen dhcp.ranges")
                return self._granted(Kind.OFFER, request, asker, own, within, address, boots)
            case Kind.REQUEST:
                return self._requested(leases, request, asker, own, within, now, boots)
            case Kind.DECLINE:
                declined = request.address(Option.ADDRESS)
                if declined is not None:
                    leases.decline(asker.mac, declined, now)
                return Answer(asker, Kind.DECLINE, error=f"somebody else uses the address {declined}")
            case Kind.RELEASE:
                leases.release(asker.mac, request.client)
            case Kind.INFORM:
                return self._granted(Kind.ACK, request, asker, own, within, NOWHERE, boots)
        return None

    def _requested(
        self, leases: Leases, request: Packet, asker: Machine, own: IPv4Address, within: Range, now: float, boots: bool
    ) -> Answer | None:
        server = request.address(Option.SERVER)
        if server is not None and server != own:
            leases.refused(asker.mac)
            return Answer(asker, Kind.REQUEST, error=f"the machine took the offer of another DHCP server, {server}")
        wanted = request.client if request.client != NOWHERE else request.address(Option.ADDRESS)
        if wanted is None or not leases.take(asker.mac, wanted, within, own, now):
            nak = _reply(request, Kind.NAK, own)
            # Whoever is told no has no address that it may be reached at (RFC 2131 section 4.3.2).
            nak = replace(nak, flags=nak.flags | BROADCAST_FLAG, client=NOWHERE)
            return Answer(asker, Kind.REQUEST, nak, "relay" if request.relay != NOWHERE else "everybody")
        return self._granted(Kind.ACK, request, asker, own, within, wanted, boots)

    def _granted(
        self, kind: Kind, request: Packet, asker: Machine, own: IPv4Address, within: Range, address: IPv4Address, boots: bool
    ) -> Answer:
        options: dict[int, bytes] = {Option.NETMASK: within.network.netmask.packed}
        if within.router is not None:
            options[Option.ROUTER] = within.router.packed
        if self._dns:
            options[Option.DNS] = self._dns
        if address != NOWHERE:
            assert self.leases is not None
            seconds = self.leases.seconds
            for option, time in ((Option.LEASE_TIME, seconds), (Option.RENEWAL, seconds // 2), (Option.REBINDING, seconds * 7 // 8)):
                options[option] = time.to_bytes(4, "big")
        plain = _reply(request, kind, own)
        reply = replace(plain, yours=address, options={**options, **plain.options})
        asked = Kind(request.kind)
        to = "relay" if request.relay != NOWHERE else "client" if request.client != NOWHERE else "everybody"
        found = self._boot_file(asker, own) if boots and asker.firmware != "system" else ""
        if isinstance(found, str):
            return Answer(asker, asked, reply, to, error=found)  # type: ignore[arg-type]
        return Answer(asker, asked, _with_boot_file(reply, asker, found, proxy=False), to, found.name)  # type: ignore[arg-type]


def _reply(request: Packet, kind: Kind, own: IPv4Address) -> Packet:
    options: dict[int, bytes] = {Option.SERVER: own.packed}
    # RFC 4578 section 2.3 and RFC 3046 section 2.2: both are given back as they came.
    for option in (Option.MACHINE, Option.RELAY):
        if option in request.options:
            options[option] = request.options[option]
    client = NOWHERE if kind is Kind.OFFER else request.client
    return Packet(
        REPLY,
        request.transaction,
        request.hardware,
        kind,
        options,
        request.hardware_type,
        flags=request.flags,
        client=client,
        relay=request.relay,
    )


def _with_boot_file(reply: Packet, asker: Machine, found: BootFile, *, proxy: bool) -> Packet:
    name, options = found.name.encode(), dict(reply.options)
    options[Option.BOOT_FILE] = name
    if "://" not in found.name:
        options[Option.TFTP_SERVER] = str(found.server).encode()
    if asker.firmware == "http":
        # Without it the firmware takes the answer for one that is not about HTTP boot (UEFI 2.10 section 24.7.3).
        options[Option.VENDOR_CLASS] = b"HTTPClient"
    elif asker.firmware == "pxe" or proxy:
        options[Option.VENDOR_CLASS] = b"PXEClient"
        options[Option.VENDOR_SPECIFIC] = encapsulate({_DISCOVERY_CONTROL: _NO_DISCOVERY})
    else:
        # iPXE then does not wait seconds for a proxy.
        options[Option.IPXE] = encapsulate({_IPXE_NO_PROXY: b"\1"})
    return replace(reply, server=found.server, file=name, options=options)
