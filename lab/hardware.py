"""What a machine is made of, and the QEMU command line that says so.

Rules, each learnt the hard way: `-action reboot=shutdown` ends QEMU at a guest's reset, so that every boot is a new
process which heeds the boot flags anew; a forced device gets the only boot index and the order is strict, so that a
wrong choice shows as "No bootable device" and not as a boot from elsewhere; TCG, because nested KVM hangs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.chassis import Device
from lab.process import LabError

GIB = 1 << 30
_OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine's parts.

    Args:
        memory: MiB.
        disks: files of its disks, first the one that the firmware boots.
        rom: whether the network card has QEMU's iPXE as option ROM; without it UEFI firmware boots by its own PXE.
        vars: copy of OVMF's variables; None for a BIOS machine.
    """

    name: str
    uuid: str
    mac: str
    memory: int
    disks: Sequence[Path]
    netdev: str
    rom: bool = True
    vars: Path | None = None
    cpus: int = 1
    extra: Sequence[str] = field(default_factory=tuple)

    def command(self, *, qmp: Path, serial: Path, serial_log: Path, forced: Device | None) -> list[str]:
        """The QEMU command line for one boot. The machine is started stopped.

        Args:
            forced: the device that the boot flags force; None for the firmware's own order, disks before network.
        """
        machine = "q35" if self.vars else "pc"
        argv = ["qemu-system-x86_64", "-name", self.name, "-uuid", self.uuid, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-machine", f"{machine},graphics=off", "-accel", "tcg,thread=multi", "-m", str(self.memory), "-smp", str(self.cpus)]
        argv += ["-S", "-action", "reboot=shutdown,shutdown=poweroff", "-boot", "strict=on,menu=off"]
        argv += ["-smbios", f"type=1,manufacturer=metald,product=lab,serial={self.name}"]
        argv += ["-qmp", f"unix:{qmp},server=on,wait=off"]
        argv += ["-chardev", f"socket,id=line,path={serial},server=on,wait=off,logfile={serial_log},logappend=on"]
        argv += ["-serial", "chardev:line"]
        argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        if self.vars:
            argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_OVMF_CODE}"]
            argv += ["-drive", f"if=pflash,format=raw,unit=1,file={self.vars}"]
        argv += self._disks(forced) + self._network(forced)
        return [*argv, *self.extra]

    def _disks(self, forced: Device | None) -> list[str]:
        argv = []
        for index, disk in enumerate(self.disks):
            boots = index == 0 and forced in (None, Device.DISK, Device.SAFE)
            argv += ["-drive", f"if=none,id=disk{index},file={disk},format=raw,cache=unsafe,discard=unmap"]
            argv += ["-device", f"virtio-blk-pci,drive=disk{index},serial={self.serial(index)}" + (",bootindex=0" if boots else "")]
        return argv

    def _network(self, forced: Device | None) -> list[str]:
        order = {None: ",bootindex=1", Device.PXE: ",bootindex=0"}.get(forced, "")
        rom = "" if self.rom else ",romfile="
        return ["-netdev", self.netdev, "-device", f"virtio-net-pci,netdev=net0,mac={self.mac}{order}{rom}"]

    def serial(self, index: int) -> str:
        """The serial number of a disk, as root device hints name it."""
        return f"{self.name}-disk{index}"


def make_disk(path: Path, size: int) -> Path:
    """A sparse, empty disk."""
    with path.open("xb") as file:
        file.truncate(size)
    return path


def make_vars(path: Path) -> Path:
    """Fresh UEFI variables.

    Raises:
        LabError: OVMF is not installed.
    """
    if not _OVMF_VARS.exists() or not _OVMF_CODE.exists():
        raise LabError(f"{_OVMF_CODE} is missing; install Debian's package ovmf.")
    shutil.copyfile(_OVMF_VARS, path)
    return path
