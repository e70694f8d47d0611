"""Addresses handed out for a time, to one MAC address each. Pure: the time goes in.

A machine is known by its MAC address and not by its client identifier (option 61), for firmware, iPXE and the ramdisk of
one machine each tell another one, and shall get the same address. An address that nobody holds is chosen by the MAC
address first, so that a machine gets its old address back even when everything was forgotten.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from metald.config import ConfigError

OFFERED = 60.0
"""Seconds that an offer is kept for the client's answer."""
MOST = 4096
"""Most addresses of one range."""

_RANGE = re.compile(r"([0-9.]+)-([0-9.]+)/([0-9]{1,2})(?: +via +([0-9.]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses of one network to hand out, both ends included."""

    first: IPv4Address
    last: IPv4Address
    network: IPv4Network
    router: IPv4Address | None = None

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last


def parse_range(text: str) -> Range:
    """Read `10.0.0.50-10.0.0.250/24`, perhaps with ` via 10.0.0.1`.

    Raises:
        ConfigError: says what is wrong.
    """
    found = _RANGE.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError("not FIRST-LAST/PREFIX or FIRST-LAST/PREFIX via ROUTER")
        first, last = IPv4Address(found[1]), IPv4Address(found[2])
        network = IPv4Network((first, int(found[3])), strict=False)
        router = IPv4Address(found[4]) if found[4] else None
        if not first <= last or last not in network or (router is not None and router not in network):
            raise ValueError("its addresses are not of one network, or in the wrong order")
        if int(last) - int(first) >= MOST:
            raise ValueError(f"it has more than {MOST} addresses")
        if network.prefixlen < 31 and (first == network.network_address or last == network.broadcast_address):
            raise ValueError("it holds the network's own address or its broadcast address")
    except ValueError as error:
        raise ConfigError(f"dhcp.ranges: {text!r}: {error}. Write for example 10.0.0.50-10.0.0.250/24 via 10.0.0.1.") from None
    return Range(first, last, network, router)


@dataclass(slots=True)
class Lease:
    """An address that somebody holds, or must not have."""

    address: IPv4Address
    mac: str
    """Empty when the address was declined: somebody uses it whom we do not know."""
    until: float
    """Seconds since the epoch."""
    taken: bool = False
    """Whether the client asked for what was offered."""


class Leases:
    """Who holds which address.

    Args:
        reserved: addresses that are never handed out, such as the server's own.
        seconds: of a lease.
    """

    def __init__(self, ranges: list[Range], seconds: int, reserved: frozenset[IPv4Address] = frozenset()) -> None:
        self.ranges = ranges
        self.seconds = seconds
        self._reserved = reserved | {found.router for found in ranges if found.router is not None}
        self._held: dict[IPv4Address, Lease] = {}
        self._of: dict[tuple[str, IPv4Network], IPv4Address] = {}

    def range_of(self, address: IPv4Address) -> Range | None:
        """The range of the network that an address is in: that of a relay, or of our own card."""
        return next((found for found in self.ranges if address in found.network), None)

    def offer(self, mac: str, wanted: IPv4Address | None, within: Range, own: IPv4Address, now: float) -> IPv4Address | None:
        """An address for a machine, kept for it for a while; None when none is left.

        Args:
            wanted: what it asked for.
            own: the server's address on this network.
        """
        held = self._held.get(self._of.get((mac, within.network), own))
        if held is not None and held.mac == mac and held.address in within:
            address = held.address
            if held.taken and held.until > now:
                return address
        else:
            found = self._free(mac, wanted, within, own, now)
            if found is None:
                return None
            address = found
        self._keep(Lease(address, mac, now + OFFERED), within.network)
        return address

    def take(self, mac: str, address: IPv4Address, within: Range, own: IPv4Address, now: float) -> bool:
        """Lease an address, or lease it on; False when the machine may not have it."""
        held = self._held.get(address)
        theirs = held is not None and held.mac == mac
        if address not in within or (not theirs and not self._is_free(address, own, now)):
            return False
        self._keep(Lease(address, mac, now + self.seconds, taken=True), within.network)
        return True

    def refused(self, mac: str) -> None:
        """The machine took another server's offer."""
        for held in self._by(mac):
            if not held.taken:
                self._drop(held)

    def release(self, mac: str, address: IPv4Address) -> None:
        """The machine gives it back."""
        held = self._held.get(address)
        if held is not None and held.mac == mac:
            self._drop(held)

    def decline(self, mac: str, address: IPv4Address, now: float) -> None:
        """The machine found that somebody else uses the address we gave it."""
        held = self._held.get(address)
        if held is not None and held.mac == mac:
            self._drop(held)
            self._held[address] = Lease(address, "", now + self.seconds, taken=True)

    def address_of(self, mac: str, now: float) -> IPv4Address | None:
        """What a machine holds at present."""
        return next((held.address for held in self._by(mac) if held.taken and held.until > now), None)

    def dump(self) -> list[dict[str, object]]:
        """What must outlive a restart."""
        return [{"address": str(held.address), "mac": held.mac, "until": held.until} for held in self._held.values() if held.taken]

    def load(self, rows: list[Mapping[str, object]]) -> None:
        """What was dumped; what does not belong to the ranges any more is left out.

        Raises:
            ValueError: it is nothing that was dumped.
        """
        for row in rows:
            address, until = IPv4Address(str(row.get("address"))), row.get("until")
            within = self.range_of(address)
            if not isinstance(until, int | float):
                raise ValueError(f"the lease of {address} has no end")
            if within is not None and address in within:
                self._keep(Lease(address, str(row.get("mac", "")), float(until), taken=True), within.network)

    def _by(self, mac: str) -> list[Lease]:
        found = [self._of.get((mac, each.network)) for each in self.ranges]
        return [self._held[address] for address in found if address is not None]

    def _keep(self, lease: Lease, network: IPv4Network) -> None:
        before = self._held.get(lease.address)
        if before is not None:
            self._drop(before)
        other = self._held.get(self._of.get((lease.mac, network), lease.address)) if lease.mac else None
        if other is not None:
            self._drop(other)
        self._held[lease.address] = lease
        if lease.mac:
            self._of[lease.mac, network] = lease.address

    def _drop(self, lease: Lease) -> None:
        self._held.pop(lease.address, None)
        within = self.range_of(lease.address)
        if within is not None and self._of.get((lease.mac, within.network)) == lease.address:
            del self._of[lease.mac, within.network]

    def _is_free(self, address: IPv4Address, own: IPv4Address, now: float) -> bool:
        held = self._held.get(address)
        return address != own and address not in self._reserved and (held is None or held.until <= now)

    def _free(self, mac: str, wanted: IPv4Address | None, within: Range, own: IPv4Address, now: float) -> IPv4Address | None:
        if wanted is not None and wanted in within and self._is_free(wanted, own, now):
            return wanted
        size = int(within.last) - int(within.first) + 1
        start = zlib.crc32(mac.encode()) % size
        worn: IPv4Address | None = None
        for step in range(size):
            address = within.first + (start + step) % size
            if not self._is_free(address, own, now):
                continue
            if address not in self._held:
                return address
            worn = worn or address  # somebody's whose time is over: only when nothing fresh is left
        return worn
