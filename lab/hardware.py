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
from typing import Literal

from lab.chassis import Device
from lab.process import LabError

GIB = 1 << 30
Clients = Literal["pxe", "pxe6", "http"]
_OVMF = Path("/usr/share/OVMF")
_OVMF_CODE, _OVMF_VARS = _OVMF / "OVMF_CODE_4M.fd", _OVMF / "OVMF_VARS_4M.fd"
_SECURE_CODE, _SECURE_VARS = _OVMF / "OVMF_CODE_4M.ms.fd", _OVMF / "OVMF_VARS_4M.ms.fd"
"""With secure boot on, and Microsoft's keys enrolled as in machines that are sold."""
_ARM_CODE, _ARM_VARS = Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd")
_CLIENTS = ("IPv4PXESupport", "IPv6PXESupport")


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine's parts.

    Args:
        memory: MiB.
        disks: files of its disks, first the one that the firmware boots.
        rom: whether the network card has QEMU's iPXE as option ROM; without it UEFI firmware boots by its own PXE.
        vars: copy of OVMF's variables; None for a BIOS machine.
        secure: whether its firmware runs what is signed only.
        arm64: an arm64 machine, which has UEFI firmware always.
        clients: which of UEFI's boots over the network are on: `pxe` (HTTP boot comes after it), `pxe6` (over IPv6 alone), or `http`.
    """

    name: str
    uuid: str
    mac: str
    memory: int
    disks: Sequence[Path]
    netdev: str
    rom: bool = True
    vars: Path | None = None
    secure: bool = False
    arm64: bool = False
    clients: Clients = "pxe"
    cpus: int = 1
    extra: Sequence[str] = field(default_factory=tuple)

    def command(self, *, qmp: Path, serial: Path, serial_log: Path, forced: Device | None) -> list[str]:
        """The QEMU command line for one boot. The machine is started stopped.

        Args:
            forced: the device that the boot flags force; None for the firmware's own order, disks before network.
        """
        program, machine = ("qemu-system-x86_64", f"q35,smm={'on' if self.secure else 'off'}" if self.vars else "pc")
        if self.arm64:
            program, machine = "qemu-system-aarch64", "virt"
        argv = [program, "-name", self.name, "-uuid", self.uuid, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-cpu", "cortex-a57"] if self.arm64 else []
        argv += ["-machine", machine if self.arm64 else f"{machine},graphics=off", "-accel", "tcg,thread=multi"]
        argv += ["-m", str(self.memory), "-smp", str(self.cpus)]
        argv += ["-S", "-action", "reboot=shutdown,shutdown=poweroff", "-boot", "strict=on,menu=off"]
        argv += ["-smbios", f"type=1,manufacturer=metald,product=lab,serial={self.name}"]
        argv += ["-qmp", f"unix:{qmp},server=on,wait=off"]
        argv += ["-chardev", f"socket,id=line,path={serial},server=on,wait=off,logfile={serial_log},logappend=on"]
        argv += ["-serial", "chardev:line"]
        argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        if self.vars:
            argv += self._uefi(self.vars)
        argv += self._disks(forced) + self._network(forced)
        return [*argv, *self.extra]

    def _uefi(self, variables: Path) -> list[str]:
        code = _ARM_CODE if self.arm64 else _SECURE_CODE if self.secure else _OVMF_CODE
        argv = ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        argv += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
        if self.secure:
            argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        off = {"pxe": (), "pxe6": _CLIENTS[:1], "http": _CLIENTS}[self.clients]
        for client in off:
            argv += ["-fw_cfg", f"name=opt/org.tianocore/{client},string=no"]
        return argv

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


def make_vars(path: Path, *, secure: bool = False, arm64: bool = False) -> Path:
    """Fresh UEFI variables; with the keys of secure boot if that is on.

    Raises:
        LabError: OVMF is not installed.
    """
    code, variables = (_ARM_CODE, _ARM_VARS) if arm64 else (_SECURE_CODE, _SECURE_VARS) if secure else (_OVMF_CODE, _OVMF_VARS)
    if not variables.exists() or not code.exists():
        raise LabError(f"{code} is missing; install Debian's package {'qemu-efi-aarch64' if arm64 else 'ovmf'}.")
    shutil.copyfile(variables, path)
    return path
