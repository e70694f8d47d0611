"""The ways to boot that `make test-boot` goes through: every boot interface on every firmware that QEMU has, and each kind of DHCP.

Each case but those of the doctor has passed when the node is `active`, and its machine loaded what the case says, and nothing else,
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab.dhcp import Wire
from lab.hardware import Clients


@dataclass(frozen=True, slots=True)
class Case:
    """One way to boot.

    Attributes:
        interface: the node's boot interface.
        loads: what the machine must load, in this order, as `tftp NAME` or `http NAME`; other requests may come between.
        rom: whether the card has QEMU's iPXE.
        settings: of metald, on top of those of the wire.
        says: a text that the machine's console must show.
        stops: the machine must not come far, and this is what the boot doctor must say of it: its code for the cause.
        warns: the boot doctor's code for what is wrong although the machine goes on.
        tells: what the node's capabilities say of secure boot, where that is not the truth.
    """

    name: str
    interface: str
    loads: Sequence[str]
    firmware: Literal["bios", "uefi", "secure", "arm64"] = "bios"
    rom: bool = False
    clients: Clients = "pxe"
    wire: Wire = field(default_factory=Wire)
    settings: Mapping[str, str] = field(default_factory=dict)
    says: str = ""
    stops: str = ""
    warns: str = ""
    tells: bool = True


_KERNEL_TFTP, _KERNEL_HTTP = ("tftp boot/NODE/kernel", "tftp boot/NODE/initramfs"), ("http boot/NODE/kernel", "http boot/NODE/initramfs")
_IPXE = ("http boot/ipxe", *_KERNEL_HTTP)
_SHIM = ("tftp bootx64.efi", "tftp grubx64.efi", "tftp grub/grub.cfg", "tftp grub/grub.cfg-01-MAC", *_KERNEL_TFTP)
_LOCKED = "Kernel is locked down from EFI Secure Boot"
_IMPATIENT = {"METALD__BOOT__QUIET_TIME": "40"}

CASES = (
    Case("BIOS, PXELINUX", "pxe", ("tftp pxelinux.0", "tftp pxelinux.cfg/01-MAC", *_KERNEL_TFTP), rom=True),
    Case("BIOS, iPXE in the card", "ipxe", ("http boot.ipxe", *_IPXE), rom=True, wire=Wire("none")),
    Case(
        "BIOS, iPXE in the card, DHCP of somebody else",
        "ipxe",
        ("http boot.ipxe", *_IPXE),
        rom=True,
        wire=Wire("boot-file", {"ipxe": "HTTP/boot.ipxe"}),
    ),
    Case("UEFI, PXE: shim and GRUB", "pxe", _SHIM, "uefi", wire=Wire("none")),
    Case("UEFI, PXE: iPXE, beside a DHCP server", "ipxe", ("tftp ipxe.efi", "http boot.ipxe", *_IPXE), "uefi", wire=Wire("addresses")),
    Case(
        "UEFI, PXE: iPXE, DHCP of somebody else",
        "ipxe",
        ("tftp ipxe.efi", "http boot.ipxe", *_IPXE),
        "uefi",
        wire=Wire("boot-file", {"efi": "ipxe.efi", "ipxe": "HTTP/boot.ipxe"}),
    ),
    Case("UEFI, HTTP boot: image", "http", ("http uefi/MAC/boot.img",), "uefi", clients="http", wire=Wire("none")),
    Case(
        "UEFI, HTTP boot: shim and GRUB",
        "http",
        ("http bootx64.efi", "http grubx64.efi", "http grub/grub.cfg-01-MAC", *_KERNEL_HTTP),
        "uefi",
        clients="http",
        settings={"METALD__BOOT__HTTP_BOOT": "loader", "METALD__BOOT__LOADER_FILE_PATHS": "GRUB"},
    ),
    Case("UEFI, HTTP boot: iPXE", "http-ipxe", ("http ipxe.efi", "http boot.ipxe", *_IPXE), "uefi", clients="http"),
    Case(
        "UEFI, HTTP boot, DHCP of somebody else",
        "http",
        ("http uefi/boot.img",),
        "uefi",
        clients="http",
        wire=Wire("boot-file", {"efi-http": "HTTP/uefi/boot.img"}),
    ),
    Case("secure boot, PXE: shim and GRUB", "pxe", _SHIM, "secure", says=_LOCKED),
    Case("secure boot, HTTP boot: image", "http", ("http uefi/MAC/boot.img",), "secure", clients="http", wire=Wire("none"), says=_LOCKED),
    Case("BIOS on a VLAN", "ipxe", ("http boot.ipxe", *_IPXE), rom=True, wire=Wire("none", vlan=100)),
    Case("arm64, PXE: shim and GRUB", "pxe", tuple(each.replace("x64.efi", "aa64.efi") for each in _SHIM), "arm64", wire=Wire("none")),
    Case("arm64, HTTP boot: image", "http", ("http uefi/MAC/boot.img",), "arm64", clients="http", wire=Wire("none")),
    Case("UEFI over IPv6, PXE: shim and GRUB", "pxe", _SHIM, "uefi", clients="pxe6", wire=Wire(ipv6=True)),
    Case(
        "doctor: secure boot refuses iPXE",
        "ipxe",
        ("tftp ipxe.efi",),
        "secure",
        wire=Wire("none"),
        settings=_IMPATIENT,
        stops="secure-boot",
        tells=False,
    ),
    Case(
        "doctor: a boot file of another architecture",
        "ipxe",
        ("tftp ipxe.efi",),
        rom=True,
        wire=Wire("boot-file", {"ipxe": "ipxe.efi"}, watched=True),
        settings=_IMPATIENT,
        stops="wrong-architecture",
    ),
    Case(
        "doctor: two DHCP servers, and the machine takes metald's answer",
        "ipxe",
        ("tftp ipxe.efi", "http boot.ipxe", *_IPXE),
        "uefi",
        wire=Wire("boot-file", {"efi": "other.efi"}),
        settings={"METALD__DHCP__PROVIDER": "proxy"},
        warns="two-dhcp-servers",
    ),
    Case(
        "doctor: two DHCP servers, and the machine takes the other's answer",
        "ipxe",
        (),
        rom=True,
        wire=Wire("boot-file", {"ipxe": "other.pxe"}),
        settings={**_IMPATIENT, "METALD__DHCP__PROVIDER": "proxy"},
        stops="two-dhcp-servers",
    ),
)
