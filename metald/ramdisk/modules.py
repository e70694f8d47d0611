"""Chooses kernel modules and writes the indexes that `modprobe` reads, without depmod.

What a module needs and which devices it drives stands in its own `.modinfo` section, as NUL-terminated `key=value`
texts; `depends=` there is complete, since the kernel's build wrote it from the symbols.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path

from metald.ramdisk.elf import section

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
"""What the SSH ramdisk has, as far as the chosen kernel offers it."""

AGENT_WANTED: tuple[str, ...] = (
    *WANTED,
    *(f"kernel/drivers/{name}/" for name in ("net/ethernet", "net/phy", "net/mdio", "net/hyperv", "net/vmxnet3", "net/fjes")),
    *(f"kernel/drivers/{name}/" for name in ("ata", "scsi", "nvme/host", "message", "nvdimm", "dax", "mmc", "cdrom", "virtio", "phy")),
    *(f"kernel/drivers/{name}/" for name in ("char/ipmi", "char/hw_random", "char/tpm", "firmware", "acpi", "usb/host", "usb/storage")),
    *(f"kernel/drivers/{name}/" for name in ("pci", "dca", "dma", "hv", "xen", "ptp", "i2c/busses", "hid", "input/keyboard", "soc")),
    # RAID, multipath, and what lies on top of disks
    *("md_mod", "linear", "raid0", "raid1", "raid10", "raid456", "dm_mod", "dm-multipath", "dm-round-robin", "dm-queue-length"),
    *("dm-service-time", "dm-mirror", "dm-snapshot", "dm-thin-pool", "dm-crypt", "dm-raid", "nbd", "loop", "zram", "mtip32xx"),
    *("scsi_dh_alua", "scsi_dh_rdac", "scsi_dh_emc", "scsi_dh_hp_sw", "nvme-tcp", "nvme-rdma", "nvme-fc"),
    # file systems of images
    *(f"kernel/fs/{name}/" for name in ("ext4", "xfs", "btrfs", "fat", "nls", "isofs", "udf", "squashfs", "overlayfs", "fuse", "efivarfs")),
    *("bonding", "macvlan", "8021q", "af_packet", "ipv6", "efi-pstore", "usbhid", "hid-generic", "crc32c_generic", "vmd"),
    *("mlx5_ib", "mlx4_ib", "ib_ipoib", "rndis_host", "cdc_eem", "cdc_ncm", "ax88179_178a", "asix", "smsc95xx"),
)
"""What the agent's ramdisk has: whole directories of drivers for disks and network cards, RAID, and the file systems of images."""


def _key(name: str) -> str:
    return name.replace("-", "_")


def _stem(path: Path) -> str:
    return _key(path.name.split(".ko", 1)[0])


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
        for text in section(self.data, b".modinfo").split(b"\0"):
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

    Args:
        wanted: names of modules; one that ends with `/` is a directory below `root`, and stands for all modules in it.

    Names that the kernel lacks (built in, or not configured) are left out; so are optional companions it lacks.
    """
    paths = {_stem(path): path for pattern in ("*.ko", "*.ko.xz") for path in sorted(root.rglob(pattern))}
    chosen: dict[str, Module] = {}
    queue: list[str] = []
    for name in wanted:
        inside = name.endswith("/")
        queue += [stem for stem, path in paths.items() if path.is_relative_to(root / name)] if inside else [_key(name)]
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
