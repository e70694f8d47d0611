"""Builds a Debian image of Debian's own packages: systemd, OpenSSH, a root file system of its own; boots from BIOS and UEFI.

It takes its host name and SSH keys from the config drive by a small service; cloud-init would take longer to start in a virtual
machine without KVM than all the rest. `no_timer_check`: on a busy host the kernel mistakes QEMU's late timer for a broken one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from lab.image import CORE_FIRST, ESP_FIRST, SECTOR, boot_sector, core_at, file_system, grub_image
from metald.drivers.ssh.partitions import BIOS_BOOT, ESP, LINUX_DATA, MIB, Partition, Table
from metald.ramdisk.packages import BuildError, run

RELEASE = "bookworm"
_PACKAGES = ("systemd-sysv", "udev", "openssh-server", "linux-image-cloud-amd64", "initramfs-tools", "kmod", "iproute2")
_GRUB = ("grub-pc-bin", "grub2-common")
_SPARE = 48 * MIB
"""Bytes that are free in the root file system."""
_ESP_SIZE = 64 * MIB
_ROOT = "lab-root"
_GUIDS = uuid.UUID("4cf6d1d0-5d0b-4b2c-8f63-5f7f5a1c2b77")
_FILES = Path(__file__).parent / "files"
_INSIDE = (
    ("debian-drive", "usr/local/sbin/config-drive", 0o755),
    ("debian-drive.service", "etc/systemd/system/config-drive.service", 0o644),
    ("debian.network", "etc/systemd/network/all.network", 0o644),
)
_HOOK = """set -eu
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/* "$1"/var/log/*
chroot "$1" systemctl enable config-drive.service systemd-networkd.service ssh.service >/dev/null 2>&1
chroot "$1" systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service >/dev/null 2>&1
rm -f "$1"/etc/ssh/ssh_host_*
echo "LABEL=$2 / ext4 defaults 0 0" >"$1"/etc/fstab
echo debian >"$1"/etc/hostname
"""


def build_debian_image(output: Path, *, partition: bool = False) -> Path:
    """Write the raw image to `output` and return that path. Needs root and Debian's archive.

    Args:
        partition: the root file system alone, with kernel and GRUB's programs inside, instead of a whole disk.

    Raises:
        BuildError: a tool is missing, or a package cannot be had.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as directory:
        work = Path(directory)
        root = work / "root"
        _unpack(work, root, _GRUB if partition else ())
        if partition:
            # on a machine without a screen the graphical terminal of GRUB on BIOS hangs
            (root / "etc/default/grub").write_text(
                "GRUB_TIMEOUT=0\nGRUB_TERMINAL=console\n"
                'GRUB_CMDLINE_LINUX="console=ttyS0 quiet no_timer_check"\nGRUB_DISABLE_OS_PROBER=true\n'
            )
            _root_file_system(work, root).replace(output)
            return output
        kernel, initramfs = (max((root / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
        (work / "kernel").write_bytes(kernel.read_bytes())
        (work / "initramfs").write_bytes(initramfs.read_bytes())
        for path in (kernel, initramfs):
            path.unlink()
        _assemble(work, _root_file_system(work, root), output.with_name(output.name + ".partial"))
    output.with_name(output.name + ".partial").replace(output)
    return output


def _unpack(work: Path, root: Path, more: tuple[str, ...]) -> None:
    """Install the packages below `root`, with mmdebstrap."""
    (work / "hook").write_text(_HOOK)
    copies = [f'--customize-hook=install -D -m {mode:o} {_FILES / name} "$1/{target}"' for name, target, mode in _INSIDE]
    sources = [str(path) for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))] or ["/etc/apt/sources.list"]
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join((*_PACKAGES, *more))}"]
    argv += [*copies, f'--customize-hook=sh {work / "hook"} "$1" {_ROOT}', RELEASE, str(root), *sources]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError("mmdebstrap is not installed.", remedy="scripts/install-packages installs it.") from None
    if done.returncode:
        raise BuildError(f"mmdebstrap failed: {done.stderr.strip()[-1000:]}")


def _root_file_system(work: Path, root: Path) -> Path:
    used = sum(path.lstat().st_blocks * 512 for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
    size = (used + used // 8 + _SPARE) // MIB * MIB
    image = work / "root.img"
    with image.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-t", "ext4", "-L", _ROOT, "-U", str(uuid.uuid5(_GUIDS, "root")), "-m", "0", "-d", str(root), str(image))
    return image


def _assemble(work: Path, root: Path, output: Path) -> None:
    line = f"linux /kernel root=LABEL={_ROOT} ro console=ttyS0 quiet no_timer_check\ninitrd /initramfs\nboot\n"
    (work / "grub.cfg").write_text(f"set timeout=0\n{line}")
    (work / "early.cfg").write_text(f"search.file /kernel root\n{line}")
    core = grub_image(work, "i386-pc", "core.img", ("biosdisk",))
    grub_image(work, "x86_64-efi", "bootx64.efi", ())
    first = ESP_FIRST + _ESP_SIZE // SECTOR
    sectors = first + root.stat().st_size // SECTOR + 2048
    table = Table.create(sectors, uuid.uuid5(_GUIDS, "disk"))
    table = table.with_partition(Partition(1, BIOS_BOOT, uuid.uuid5(_GUIDS, "bios"), CORE_FIRST, ESP_FIRST - 1, "bios"))
    table = table.with_partition(Partition(2, ESP, uuid.uuid5(_GUIDS, "esp"), ESP_FIRST, first - 1, "esp"))
    last = first + root.stat().st_size // SECTOR - 1
    table = table.with_partition(Partition(3, LINUX_DATA, uuid.uuid5(_GUIDS, "root"), first, last, "root"))
    with output.open("wb") as file:
        for offset, data in table.render():
            file.seek(offset)
            file.write(boot_sector(data) if offset == 0 else data)
        file.seek(CORE_FIRST * SECTOR)
        file.write(core_at(core, CORE_FIRST))
        file.seek(ESP_FIRST * SECTOR)
        file.write(file_system(work, _ESP_SIZE // SECTOR))
        _copy_sparsely(root, file.fileno(), first * SECTOR)
        file.truncate(sectors * SECTOR)


def _copy_sparsely(source: Path, target: int, offset: int) -> None:
    with source.open("rb") as file:
        at = 0
        while piece := file.read(MIB):
            if any(piece):
                os.pwrite(target, piece, offset + at)
            at += len(piece)


def main() -> int:
    """`python -m lab.debian OUTPUT [--partition]`."""
    parser = argparse.ArgumentParser(description="Build the lab's Debian image.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--partition", action="store_true", help="the root file system alone")
    given = parser.parse_args()
    print(build_debian_image(given.output, partition=given.partition))
    return 0


if __name__ == "__main__":
    sys.exit(main())
