"""Chooses kernel modules and writes the indexes that `modprobe` reads, without depmod.

What a module needs and which devices it drives stands in its own `.modinfo` section, as NUL-terminated `key=value`
texts; `depends=` there is complete, since the kernel's build wrote it from the symbols.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

WANTED: tuple[str, ...] = (
    # buses and what virtual machines have
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_rng", "xen-blkfront", "xen-netfront"),
    *("hv_vmbus", "hv_netvsc", "hv_storvsc", "vmxnet3", "vmw_pvscsi", "ena", "gve", "mana", "ixgbevf", "iavf", "igbvf"),
    # disks
    *("sd_mod", "ahci", "ata_piix", "ata_generic", "nvme", "usb-storage", "uas", "mpt3sas", "megaraid_sas", "smartpqi", "hpsa"),
    *("aacraid", "mpi3mr", "mvsas", "isci", "xhci-pci", "ehci-pci", "uhci-hcd", "mmc_block", "sdhci-pci", "sdhci-acpi"),
    # network cards
    *("e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "tg3", "bnx2", "bnx2x", "bnxt_en", "be2net", "r8169", "8139cp"),
    *("8139too", "atlantic", "qede", "cxgb4", "sfc", "mlx4_en", "mlx5_core", "usbnet", "cdc_ether", "r8152", "pcnet32", "forcedeth"),
    # PHYs that network cards load by name
    *("realtek", "broadcom", "marvell"),
    # file systems of EFI partitions and config drives, and the firmware's variables
    *("vfat", "nls_ascii", "nls_cp437", "nls_utf8", "isofs", "efivarfs", "button", "evdev"),
)
"""What the ramdisk has, as far as the chosen kernel offers it."""


def _key(name: str) -> str:
    return name.replace("-", "_")


def _stem(path: Path) -> str:
    return _key(path.name.split(".ko", 1)[0])


def _section(data: bytes, wanted: bytes) -> bytes:
    """A section of a 64-bit little-endian ELF file (System V ABI, "Sections"); empty when there is none."""
    if data[:6] != b"\x7fELF\x02\x01":
        return b""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        if data.startswith(wanted + b"\0", names + name):
            return data[offset : offset + length]
    return b""


class Module:
    """One kernel module of a kernel package.

    Args:
        path: where it lies below `lib/modules/VERSION`, as `.ko`.
        data: the uncompressed ELF file.
    """

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self.name = _stem(Path(path))
        self.depends: list[str] = []
        self.softdeps: list[str] = []
        self.aliases: list[str] = []
        self._read_info()

    def _read_info(self) -> None:
        for text in _section(self.data, b".modinfo").split(b"\0"):
            key, _, value = text.partition(b"=")
            words = value.decode("ascii", "replace")
            if key == b"depends":
                self.depends += [_key(one) for one in words.split(",") if one]
            elif key == b"alias":
                self.aliases.append(words)
            elif key == b"softdep":
                self.softdeps += [_key(one) for one in words.split() if not one.endswith(":")]


def _read(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def choose(root: Path, wanted: Iterable[str]) -> list[Module]:
    """The wanted modules below `root` (a `lib/modules/VERSION` directory) with all that they need, in order of path.

    Names that the kernel lacks (built in, or not configured) are left out; so are optional companions it lacks.
    """
    paths = {_stem(path): path for pattern in ("*.ko", "*.ko.xz") for path in sorted(root.rglob(pattern))}
    chosen: dict[str, Module] = {}
    queue = [_key(name) for name in wanted]
    while queue:
        name = queue.pop()
        if name in chosen or name not in paths:
            continue
        relative = str(paths[name].relative_to(root)).removesuffix(".xz")
        module = chosen[name] = Module(relative, _read(paths[name]))
        queue += module.depends + module.softdeps
    return sorted(chosen.values(), key=lambda module: module.path)


def _needs(module: Module, by_name: dict[str, Module], seen: set[str]) -> Iterator[Module]:
    """What must be loaded before a module, in that order."""
    for name in module.depends:
        if name in by_name and name not in seen:
            seen.add(name)
            yield from _needs(by_name[name], by_name, seen)
            yield by_name[name]


def indexes(modules: Iterable[Module]) -> dict[str, str]:
    """`modules.dep` (dependencies are loaded from right to left) and `modules.alias`, by file name."""
    by_name = {module.name: module for module in modules}
    dep = []
    for module in by_name.values():
        needs = [need.path for need in _needs(module, by_name, {module.name})]
        dep.append(" ".join([f"{module.path}:", *reversed(needs)]))
    alias = [f"alias {alias} {module.name}" for module in by_name.values() for alias in module.aliases]
    return {"modules.dep": "\n".join([*dep, ""]), "modules.alias": "\n".join([*alias, ""])}
