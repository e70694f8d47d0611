"""Builds the small operating system that the lab's machines get: 32 MB, boots from BIOS and UEFI, reachable by SSH.

A GUID partition table holds GRUB's BIOS core, and an EFI system partition with GRUB for UEFI, a Debian kernel and an
initramfs that takes its host name and SSH keys from the config drive. Made of the same parts as metald's ramdisk.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import uuid
from pathlib import Path

from metald.drivers.ssh.partitions import BIOS_BOOT, ESP, MIB, Partition, Table
from metald.ramdisk.build import base_tree, compress, gather
from metald.ramdisk.packages import run

SIZE = 32 * MIB
SECTOR = 512
CORE_FIRST = 64
ESP_FIRST = 2048
"""Sectors in which GRUB's core for BIOS and the EFI system partition begin."""
_FILES = Path(__file__).parent / "files"
_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_rng", "sd_mod", "ata_piix", "ahci", "e1000", "e1000e", "8139cp"),
    *("isofs", "nls_utf8", "button", "evdev"),
)
_GRUB_MODULES = ("part_gpt", "fat", "linux", "normal", "configfile")
_GUIDS = uuid.UUID("7b0c8f6e-52a5-4c5e-9d52-0b6c8d5b3a10")
"""Names the partition GUIDs are derived from, so that an image is reproducible."""


def build_tiny_image(output: Path, authorized_key: str, *, work: Path | None = None, console: str = "ttyS0") -> Path:
    """Write the raw disk image to `output` and return that path.

    Args:
        authorized_key: a line for root's `authorized_keys`; empty for none but the config drive's.
        work: where packages are kept between builds; by default `work` beside the output.
        console: where the kernel writes its messages.

    Raises:
        BuildError: a package or a tool is missing.
    """
    parts = gather(work or output.parent / "work")
    tree = base_tree(parts, _MODULES)
    for name, target in (("tiny-init", "init"), ("tiny-dhcp", "etc/dhcp"), ("tiny-power", "etc/acpi/PWRF/00000080")):
        tree.file(target, (_FILES / name).read_bytes(), 0o755)
    tree.file("root/.ssh/authorized_keys", authorized_key.strip().encode() + b"\n" if authorized_key.strip() else b"", 0o600)
    initramfs = compress(tree.pack(0))
    with tempfile.TemporaryDirectory() as directory:
        data = _assemble(Path(directory), parts.kernel, initramfs, console)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as file:
        for offset, piece in data:
            for at in range(0, len(piece), 4096):
                if any(block := piece[at : at + 4096]):
                    file.seek(offset + at)
                    file.write(block)
        file.truncate(SIZE)
    partial.replace(output)
    return output


def _assemble(work: Path, kernel: bytes, initramfs: bytes, console: str) -> list[tuple[int, bytes]]:
    config = f"linux /kernel console={console} quiet no_timer_check\ninitrd /initramfs\nboot\n"
    (work / "kernel").write_bytes(kernel)
    (work / "initramfs").write_bytes(initramfs)
    (work / "grub.cfg").write_text(f"set timeout=0\n{config}")
    (work / "early.cfg").write_text(f"search.file /kernel root\n{config}")
    core = grub_image(work, "i386-pc", "core.img", ("biosdisk",))
    grub_image(work, "x86_64-efi", "bootx64.efi", ())
    table = Table.create(SIZE // SECTOR, uuid.uuid5(_GUIDS, "disk"))
    table = table.with_partition(Partition(1, BIOS_BOOT, uuid.uuid5(_GUIDS, "bios"), CORE_FIRST, ESP_FIRST - 1, "bios"))
    esp = Partition(2, ESP, uuid.uuid5(_GUIDS, "esp"), ESP_FIRST, table.last_usable, "esp")
    table = table.with_partition(esp)
    pieces = [(offset, data) for offset, data in table.render() if offset]
    head = next(data for offset, data in table.render() if offset == 0)
    return [
        (0, boot_sector(head)),
        (CORE_FIRST * SECTOR, core_at(core, CORE_FIRST)),
        (esp.first * SECTOR, file_system(work, esp.sectors)),
        *pieces,
    ]


def grub_image(work: Path, platform: str, name: str, extra: tuple[str, ...]) -> bytes:
    """GRUB for a platform, with `early.cfg` of `work` inside; it is written there under `name`."""
    modules = (*_GRUB_MODULES, *extra, "search_fs_file")
    run("grub-mkimage", "-O", platform, "-o", str(work / name), "-p", "/", "-c", str(work / "early.cfg"), *modules)
    return (work / name).read_bytes()


def boot_sector(head: bytes) -> bytes:
    """GRUB's boot.img in front of the partition table, told where its core lies (GRUB, i386/pc/boot.h)."""
    boot = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()[:440])
    struct.pack_into("<Q", boot, 0x5C, CORE_FIRST)
    boot[0x64] = 0xFF  # the drive it was loaded from
    boot[0x66:0x68] = b"\x90\x90"  # a hard disk needs no check for floppies
    sector = bytearray(head)
    sector[: len(boot)] = boot
    sector[446] = 0x80  # some BIOSes boot no disk without an active partition
    return bytes(sector)


def core_at(core: bytes, first: int) -> bytes:
    """GRUB's core whose first sector is told where the others lie (GRUB, i386/pc/boot.h, `GRUB_BOOT_MACHINE_LIST_SIZE`)."""
    placed = bytearray(core)
    struct.pack_into("<Q", placed, 0x1F4, first + 1)
    if len(placed) > (ESP_FIRST - first) * SECTOR:
        raise ValueError("GRUB's core does not fit in front of the first partition")
    return bytes(placed)


def file_system(work: Path, sectors: int) -> bytes:
    """An EFI system partition with `bootx64.efi`, `kernel`, `initramfs` and `grub.cfg` of `work`."""
    image = work / "esp.img"
    with image.open("wb") as file:
        file.truncate(sectors * SECTOR)
    run("mformat", "-i", str(image), "-T", str(sectors), "-h", "64", "-s", "32", "-c", "8", "-v", "ESP", "-N", "4d455441", "::")
    run("mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", str(image), str(work / "bootx64.efi"), "::/EFI/BOOT/BOOTX64.EFI")
    for name in ("kernel", "initramfs", "grub.cfg"):
        run("mcopy", "-i", str(image), str(work / name), f"::/{name}")
    return image.read_bytes()


def main() -> int:
    """`python -m lab.image OUTPUT [--key FILE]`."""
    parser = argparse.ArgumentParser(description="Build the lab's small bootable image.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--key", type=Path, help="file with a line for root's authorized_keys")
    given = parser.parse_args()
    key = given.key.read_text() if given.key else ""
    print(build_tiny_image(given.output, key))
    return 0


if __name__ == "__main__":
    sys.exit(main())
