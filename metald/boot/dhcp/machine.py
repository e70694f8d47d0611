"""What a DHCP request tells of the machine that sent it.

Sources: RFC 4578 (options 60, 93, 94, 97 of PXE), UEFI 2.10 section 24.7 (HTTP boot), and iPXE's documents for option 175 and
its user class.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from metald.boot.dhcp.packet import Option, Packet
from metald.boot.loaders import Family, Firmware, architecture


@dataclass(frozen=True, slots=True)
class Machine:
    """Who asks."""

    mac: str
    firmware: Firmware
    architecture: str
    """In words; empty when it was not told."""
    family: Family
    """What its boot loader is built for; empty when there is none for its architecture."""
    id: str
    """Its UUID (option 97), or what else it calls itself, in hexadecimal; PXE wants it and some firmware forgets: empty."""


def machine(packet: Packet) -> Machine | None:
    """The machine behind a request; None when its card is not Ethernet's."""
    mac = packet.mac
    if mac is None:
        return None
    number = _number(packet)
    if number is None:
        return Machine(mac, _firmware(packet, http=False), "", "bios", _id(packet))
    known = architecture(number)
    return Machine(mac, _firmware(packet, http=known.http), known.text, known.family, _id(packet))


def _firmware(packet: Packet, *, http: bool) -> Firmware:
    options = packet.options
    vendor = options.get(Option.VENDOR_CLASS, b"")
    # RFC 3004 wants a length before each class; iPXE sends the bare word.
    if Option.IPXE in options or b"iPXE" in options.get(Option.USER_CLASS, b""):
        return "ipxe"
    if vendor.startswith(b"HTTPClient") or (http and not vendor.startswith(b"PXEClient")):
        return "http"
    return "pxe" if vendor.startswith(b"PXEClient") else "system"


def _number(packet: Packet) -> int | None:
    """The first architecture of option 93; old firmware tells it in option 60 alone (`PXEClient:Arch:00007:...`)."""
    value = packet.options.get(Option.ARCHITECTURE, b"")
    if len(value) >= 2:
        return int.from_bytes(value[:2], "big")
    words = packet.options.get(Option.VENDOR_CLASS, b"").split(b":")
    if len(words) >= 3 and words[1] == b"Arch" and words[2].isdigit() and len(words[2]) <= 5:
        return int(words[2])
    return None


def _id(packet: Packet) -> str:
    """Option 97: a type of 0 and a UUID, whose first three fields firmware sends with the low byte first, as SMBIOS has them."""
    value = packet.options.get(Option.MACHINE, b"")
    if len(value) == 17 and value[0] == 0:
        return str(uuid.UUID(bytes_le=value[1:]))
    return value.hex()[:64]
