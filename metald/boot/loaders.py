"""Which boot loader a machine is to load first: by its architecture, its firmware, and its node's boot interface.

| boot interface | PXE firmware | UEFI HTTP boot | iPXE (in the card, or loaded before) |
| --- | --- | --- | --- |
| `ipxe` | iPXE by TFTP | iPXE by HTTP | `boot.ipxe` |
| `http-ipxe` | nothing | iPXE by HTTP | `boot.ipxe` |
| `pxe` | PXELINUX, or shim and GRUB, by TFTP | nothing | the same by TFTP |
| `http` | nothing | a boot image, or shim and GRUB, by HTTP | nothing |

shim and GRUB are those that a distribution signed, which machines with secure boot accept; iPXE is not signed.

Sources: RFC 4578 and IANA's registry "Processor Architecture Types" (RFC 5970) for the numbers, UEFI 2.10 section 24.7 for HTTP
boot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from metald.config import ConfigError

Firmware = Literal["pxe", "http", "ipxe", "system"]
"""PXE in the firmware or on the card; UEFI HTTP boot; iPXE; or an operating system that does not boot by the answer."""

Family = Literal["bios", "x86_64", "arm64", ""]
"""What a loader is built for; empty: no loader is known for it."""

Kind = Literal["tftp", "http", "script", "image"]
"""How the first file is had: by TFTP, by HTTP, `boot.ipxe` by whichever is set, or the node's own boot image by HTTP."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a machine's client architecture means."""

    text: str
    family: Family
    http: bool = False
    """Whether its number alone says that UEFI HTTP boot asks."""


_ARCHITECTURES: Mapping[int, Architecture] = MappingProxyType(
    {
        0: Architecture("BIOS", "bios"),
        6: Architecture("UEFI IA32", ""),
        # 7 was meant for EFI byte code and is what nearly every x86-64 firmware sends.
        7: Architecture("UEFI x86-64", "x86_64"),
        9: Architecture("UEFI x86-64", "x86_64"),
        10: Architecture("UEFI ARM", ""),
        11: Architecture("UEFI ARM64", "arm64"),
        15: Architecture("UEFI IA32 HTTP", "", http=True),
        16: Architecture("UEFI x86-64 HTTP", "x86_64", http=True),
        17: Architecture("UEFI x86-64 HTTP", "x86_64", http=True),
        18: Architecture("UEFI ARM HTTP", "", http=True),
        19: Architecture("UEFI ARM64 HTTP", "arm64", http=True),
        20: Architecture("BIOS HTTP", "bios", http=True),
        27: Architecture("UEFI RISC-V 64", ""),
        28: Architecture("UEFI RISC-V 64 HTTP", "", http=True),
    }
)

IPXE: Mapping[Family, str] = MappingProxyType({"bios": "undionly.kpxe", "x86_64": "ipxe.efi", "arm64": "arm64-efi/ipxe.efi"})
"""Below `boot.ipxe_dir`."""
SIGNED: Mapping[Family, str] = MappingProxyType({"bios": "pxelinux.0", "x86_64": "bootx64.efi", "arm64": "bootaa64.efi"})
"""Names of `boot.loader_file_paths`. UEFI's are shim, which loads GRUB from beside it."""
GRUB: Mapping[Family, str] = MappingProxyType({"x86_64": "grubx64.efi", "arm64": "grubaa64.efi"})
"""What shim asks for, by that name."""
INTERFACES = ("ipxe", "pxe", "http", "http-ipxe")
"""Boot interfaces that load over the network."""


@dataclass(frozen=True, slots=True)
class First:
    """What a machine is to load first."""

    kind: Kind
    name: str = ""
    """Name of the loader's file below the boot servers' root; empty for a script or an image."""


def architecture(number: int) -> Architecture:
    """What a client architecture of option 93 means."""
    return _ARCHITECTURES.get(number, Architecture(f"number {number}", ""))


def first(interface: str, firmware: Firmware, family: Family, *, image: bool = True) -> First | str:
    """What a machine is to load first, or why it cannot load anything.

    Args:
        interface: the node's boot interface; one that is not of INTERFACES counts as `ipxe`.
        family: of its architecture.
        image: whether `http` leads to a boot image rather than to shim and GRUB file by file.
    """
    by_http = interface in ("http", "http-ipxe")
    if firmware == "pxe" and by_http:
        return f"the firmware asked by PXE, and boot interface {interface} boots by UEFI HTTP boot: turn PXE off in the firmware's setup"
    if firmware == "http" and interface == "pxe":
        return "the firmware asked by HTTP boot, and boot interface pxe boots by TFTP: turn HTTP boot off, or set boot_interface to http"
    if firmware == "ipxe" and interface == "http":
        return "iPXE asked, and boot interface http boots by the firmware's own HTTP boot: set boot_interface to http-ipxe"
    if interface in ("pxe", "http"):
        if firmware == "http" and image and family in GRUB:
            return First("image")
        name = SIGNED.get(family, "")
    elif firmware == "ipxe":
        return First("script")
    else:
        name = IPXE.get(family, "")
    if not name:
        return "there is no boot loader"
    return First("http" if firmware == "http" else "tftp", name)


def read_paths(texts: Sequence[str]) -> dict[str, Path]:
    """Read `boot.loader_file_paths`.

    Raises:
        ConfigError: one of them is not `name:/path`.
    """
    found = {}
    for text in texts:
        name, colon, path = text.partition(":")
        if not colon or not name or "/" in name or not path.startswith("/"):
            raise ConfigError(f"boot.loader_file_paths: {text!r} is not NAME:/PATH, such as bootx64.efi:/usr/lib/shim/shimx64.efi.signed.")
        found[name] = Path(path)
    return found
