"""What a DHCP request tells of the machine that sent it, and which loader it needs.

Sources: RFC 4578 (options 60, 93, 94, 97 of PXE), the registry of client architectures of RFC 5970, UEFI 2.10 section 24.7
(HTTP boot), and iPXE's documents for option 175 and its user class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metald.boot.dhcp.packet import Option, Packet

BIOS_LOADER = "undionly.kpxe"
EFI_LOADER = "ipxe.efi"
EFI_ARM64_LOADER = "arm64-efi/ipxe.efi"

Firmware = Literal["pxe", "http", "ipxe", "system"]
"""PXE in the firmware or on the card; UEFI HTTP boot; iPXE; or an operating system that does not boot by the answer."""

_ARCHITECTURES = {
    0: ("BIOS", BIOS_LOADER),
    6: ("UEFI IA32", ""),
    # 7 was meant for EFI byte code and is what nearly every x86-64 firmware sends.
    7: ("UEFI x86-64", EFI_LOADER),
    9: ("UEFI x86-64", EFI_LOADER),
    10: ("UEFI ARM", ""),
    11: ("UEFI ARM64", EFI_ARM64_LOADER),
    15: ("UEFI IA32 HTTP", ""),
    16: ("UEFI x86-64 HTTP", EFI_LOADER),
    17: ("UEFI x86-64 HTTP", EFI_LOADER),
    18: ("UEFI ARM HTTP", ""),
    19: ("UEFI ARM64 HTTP", EFI_ARM64_LOADER),
    20: ("BIOS HTTP", BIOS_LOADER),
    27: ("UEFI RISC-V 64", ""),
}
_HTTP = frozenset(range(15, 21))


@dataclass(frozen=True, slots=True)
class Machine:
    """Who asks."""

    mac: str
    firmware: Firmware
    architecture: str
    """In words; empty when it was not told."""
    loader: str
    """The boot loader that it can run; empty when there is none for its architecture."""
    has_id: bool
    """Whether it told its UUID (option 97); PXE wants it and some firmware forgets."""


def machine(packet: Packet) -> Machine | None:
    """The machine behind a request; None when its card is not Ethernet's."""
    mac = packet.mac
    if mac is None:
        return None
    number = _number(packet)
    architecture, loader = _ARCHITECTURES.get(number, (f"number {number}", "")) if number is not None else ("", BIOS_LOADER)
    return Machine(mac, _firmware(packet, number), architecture, loader, Option.MACHINE in packet.options)


def _firmware(packet: Packet, number: int | None) -> Firmware:
    options = packet.options
    vendor = options.get(Option.VENDOR_CLASS, b"")
    # RFC 3004 wants a length before each class; iPXE sends the bare word.
    if Option.IPXE in options or b"iPXE" in options.get(Option.USER_CLASS, b""):
        return "ipxe"
    if vendor.startswith(b"HTTPClient") or (number in _HTTP and not vendor.startswith(b"PXEClient")):
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
