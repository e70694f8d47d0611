"""What some vendors do differently, as data. Each entry names where it is known from."""

from __future__ import annotations

from typing import Final, NamedTuple

from metald.model import BootDevice

PARAMETER_MISSING: Final = frozenset((0x80, 0x82, 0xC1, 0xC9, 0xCC, 0xFF))
"""Completion codes with which BMCs refuse a boot option they do not have: unsupported, read-only, and generic ones; older OpenBMC
says "unspecified error"."""


class Vendor(NamedTuple):
    """How a vendor is known: a word in `properties.vendor`, or the IANA enterprise number in Get Device ID."""

    word: str
    manufacturers: frozenset[int]


SUPERMICRO: Final = Vendor("supermicro", frozenset((10876, 47488)))


class BootSelector(NamedTuple):
    """Another boot device selector than the standard's for one device in one mode."""

    vendor: Vendor
    device: BootDevice
    uefi: bool
    selector: int


BOOT_SELECTORS: Final = (
    # Supermicro boots the UEFI disk only for "remotely connected hard drive" (0x24); Ironic's ipmitool driver does the same.
    BootSelector(SUPERMICRO, BootDevice.DISK, uefi=True, selector=0b1001),
)

READ_FRU: Final = (0x0A, 0x11)
TOO_MUCH_AT_ONCE: Final = frozenset((0xC7, 0xC8))
"""Completion codes with which OpenIPMI's ipmi_sim and others refuse to read so many bytes of a FRU device at once; the standard's,
which pyghmi knows, is 0xCA (section 34.2)."""

STILL_STARTING: Final = frozenset(((0x00, 0x01, 0xFF),))
"""Commands (netfn, command) and completion codes by which a BMC that has just started says so otherwise than by 0xD2: OpenBMC
answers Get Chassis Status with "unspecified error" until it has found out."""
