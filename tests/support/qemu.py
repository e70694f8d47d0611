"""A real virtual machine on the ramdisk and the small image of the lab: QEMU without KVM, user networking, no privileges."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
MAC = "52:54:00:12:34:56"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """One disk, one card, and the port of the host that leads to its SSH."""

    def __init__(self, folder: Path, *, uefi: bool = False, nvme: bool = False, disk_size: int = 5 << 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk.raw"
        self.console = folder / "console.log"
        self.ssh_port = free_port()
        self._variables = folder / "vars.fd"
        self._uefi = uefi
        self._nvme = nvme
        with self.disk.open("wb") as file:
            file.truncate(disk_size)
        if uefi:
            shutil.copy(VARS, self._variables)

    def _argv(self, kernel: Path | None, initramfs: Path | None, append: str) -> list[str]:
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand", "-m", "512", "-display", "none", "-no-reboot"]
        argv += ["-monitor", "none", "-serial", f"file:{self.console}"]
        argv += ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"]
        argv += ["-device", f"virtio-net-pci,netdev=n,mac={MAC},romfile="]
        argv += ["-drive", f"file={self.disk},format=raw,cache=unsafe,{'if=none,id=d' if self._nvme else 'if=virtio'}"]
        argv += ["-device", "nvme,drive=d,serial=metald-nvme"] if self._nvme else []
        if self._uefi:
            argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={CODE}", "-drive", f"if=pflash,format=raw,file={self._variables}"]
        if kernel and initramfs:
            argv += ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", append]
        return argv

    @asynccontextmanager
    async def running(self, kernel: Path | None = None, initramfs: Path | None = None, append: str = "") -> AsyncIterator[None]:
        """Power on; leaving cuts the power."""
        process = await asyncio.create_subprocess_exec(
            *self._argv(kernel, initramfs, append), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
