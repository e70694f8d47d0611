"""A virtual machine on metald's ramdisk of the Ironic Python Agent, behind a simulated BMC: QEMU without KVM, no privileges.

The firmware's part is simulated: it follows metald's iPXE script and hands kernel, initramfs and kernel line to QEMU, whose
user networking shows this host as 10.0.2.2 and forwards the agent's port. Power and boot device are the BMC's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from metald.sim.bmc import Fleet
from metald.sim.chassis import SimBmc
from metald.sim.ipxe import Disk, Ipxe, Kernel, LoadError
from metald.sim.life import Life
from tests.support.daemon import free_port

HOST = "10.0.2.2"
"""This host, as the machine sees it."""


class AgentMachine(Life):
    """See the module.

    Args:
        folder: of this machine alone.
        ramdisk: directory with `kernel` and `initramfs`.
        boot_url: the boot HTTP server, as this host reaches it.
        mac: of its card.
        disk_size: bytes.
        memory: MiB.
    """

    def __init__(self, folder: Path, ramdisk: Path, boot_url: str, mac: str, *, disk_size: int = 5 << 30, memory: int = 1536) -> None:
        super().__init__(SimBmc(), f"agent machine {mac}", 0.01)
        folder.mkdir(parents=True)
        self.mac = mac
        self.disk = folder / "disk"
        self.console = folder / "console.log"
        self.agent_port, self.ssh_port = free_port(), free_port()
        self.words: dict[str, str] = {}
        self.node = ""
        self.disk_boots = 0
        self._ramdisk, self._boot_url, self._memory = ramdisk, boot_url, memory
        self._process: asyncio.subprocess.Process | None = None
        self._net: Fleet | None = None
        with self.disk.open("wb") as file:
            file.truncate(disk_size)

    @contextlib.asynccontextmanager
    async def plugged(self) -> AsyncIterator[AgentMachine]:
        async with Fleet([self.bmc], port=free_port(socket.SOCK_DGRAM)) as self._net:
            self.attach()
            try:
                yield self
            finally:
                await self.detach()
        if self.defects:
            raise self.defects[0]

    def driver_info(self, **more: Any) -> dict[str, Any]:
        """How metald reaches the BMC, and what the kernel line needs behind user networking."""
        assert self._net is not None
        line = f"%default% console=ttyS0 ipa-advertise-host=127.0.0.1 ipa-advertise-port={self.agent_port} ipa-disk-wait-attempts=1"
        address = {"ipmi_address": "127.0.0.1", "ipmi_port": self._net.port, "ipmi_username": "admin", "ipmi_password": "secret"}
        return {**address, "kernel_append_params": line, **more}

    def said(self) -> str:
        """What the console shows."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    async def _power_on_self_test(self) -> bool:
        return True

    async def _boot_disk(self) -> bool:
        with self.disk.open("rb") as file:
            if file.read(512)[-2:] != b"\x55\xaa":
                return False
        self.disk_boots += 1
        self.running = "instance"
        return True

    async def _boot_network(self) -> bool:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as web:

            async def fetch(url: str) -> bytes:
                try:
                    async with web.get(url.replace(HOST, "127.0.0.1"), raise_for_status=True) as answer:
                        return await answer.read()
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    raise LoadError(str(error)) from error

            end = await Ipxe((self.mac,), fetch, self._pause).run(f"{self._boot_url}/boot.ipxe")
        if isinstance(end, Disk):
            return await self._boot_disk()
        if isinstance(end, Kernel):
            self.words = dict(word.partition("=")[::2] for word in end.command_line.split() if "=" in word)
            await self._start_qemu(end.command_line)
            return True
        return False

    async def _start_qemu(self, line: str) -> None:
        forwards = f"hostfwd=tcp:127.0.0.1:{self.agent_port}-:9999,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", str(self._memory), "-smp", "2", "-display", "none"]
        argv += ["-no-reboot", "-monitor", "none", "-serial", f"file:{self.console}", "-netdev", f"user,id=n,{forwards}"]
        argv += ["-device", f"virtio-net-pci,netdev=n,mac={self.mac},romfile="]
        argv += ["-drive", f"file={self.disk},if=virtio,format=raw,cache=unsafe"]
        argv += ["-kernel", str(self._ramdisk / "kernel"), "-initrd", str(self._ramdisk / "initramfs"), "-append", line]
        self._process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL)
        self.running = "ramdisk"
        self._own(self._watch(self._process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """A machine that goes off by itself is off."""
        await process.wait()
        if self._process is process:
            self.bmc.set_power(False)
        self._changed()

    def _cut(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
