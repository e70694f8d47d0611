"""A simulated machine behind a simulated BMC: it boots when its power comes on, and stops dead when it goes.

Its firmware obeys the BMC's boot flags, loads metald's boot scripts over HTTP (and its boot loader over TFTP, when told
where), follows them, and runs a ramdisk whose sshd and disk are real (`ramdisk.py`), or starts what its disk holds.

Rules:

- It is driven by its BMC alone, as a real machine is; `async with` begins and ends its existence, and ending leaves no
  process, task or port behind.
- Time passes by `pace`: a second of the machine's own waiting takes so many seconds. Nothing else is shortened.
- Every effect is counted (`faults.MachineCounters`, and the BMC's counters), so that a test can prove it was done once.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from metald.sim.chassis import SimBmc
from metald.sim.faults import MachineCounters, MachineFaults
from metald.sim.ipxe import Disk, Ipxe, Kernel, LoadError, Restart
from metald.sim.life import Life
from metald.sim.ramdisk import Ramdisk, Site

SECTOR = 512
_SIGNATURE = b"\x55\xaa"


class SimMachine(Life):
    """One machine with one disk.

    Args:
        directory: where its disk and its ramdisks live; made when missing.
        bmc: its BMC, whose `on_change` the machine takes for itself.
        boot_url: the boot HTTP server, as DHCP would tell it.
        program: the compiled `metald-ramdisk`.
        macs: addresses of its cards.
        disk_size: bytes.
        pace: seconds that one second of the machine's own waiting takes.
    """

    def __init__(
        self,
        directory: Path,
        bmc: SimBmc,
        *,
        boot_url: str,
        program: Path,
        macs: tuple[str, ...] = ("52:54:00:00:00:01",),
        disk_size: int = 64 << 20,
        pace: float = 0.05,
    ) -> None:
        self.directory = directory
        super().__init__(bmc, f"machine {macs[0]}", pace)
        self.macs = macs
        self.faults = MachineFaults()
        self.disk = directory / "disk"
        self.ramdisk: Ramdisk | None = None
        self._boot_url = boot_url.rstrip("/")
        self._disk_size = disk_size
        self._site = Site(program, directory / "sys", directory / "dev")
        self._boots = itertools.count(1)

    async def __aenter__(self) -> SimMachine:
        await asyncio.to_thread(self._lay_out)
        self.attach()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.detach()
        if self.defects:
            raise self.defects[0]

    def _lay_out(self) -> None:
        """The files that the ramdisk's program sees as /sys and /dev."""
        facts = {
            "size": str(self._disk_size // SECTOR),
            "ro": "0",
            "removable": "0",
            "queue/logical_block_size": str(SECTOR),
            "queue/rotational": "0",
            "serial": f"sim-{self.macs[0].replace(':', '')}",
            "device/model": "SIMDISK",
            "device/vendor": "metald",
        }
        for name, text in facts.items():
            path = self._site.system / "block" / "sda" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        self._site.devices.mkdir(parents=True, exist_ok=True)
        with self.disk.open("ab") as file:
            file.truncate(self._disk_size)
        device = self._site.devices / "sda"
        if not device.is_symlink():
            device.symlink_to(self.disk)

    # -- what the outside asks

    def go_on(self) -> None:
        """Let a network that stands still (`faults.holds_at`) carry again."""
        if self.ramdisk is not None:
            self.ramdisk.go_on()

    def report(self) -> dict[str, Any]:
        """Every counter of the machine and its BMC, what was written by the present ramdisk included."""
        own = {name: getattr(self.counters, name) for name in MachineCounters.__dataclass_fields__}
        if self.ramdisk is not None:
            done = [job for job in self.ramdisk.jobs() if job["state"] == "done"]
            own["writes_done"] += len(done)
            own["bytes_written"] += sum(job["total"] for job in done)
        return {**own, **self.bmc.report(), "running": self.running}

    # -- life

    def _cut(self) -> None:
        if self.ramdisk is not None:
            self.ramdisk.cut()
            self._own(self.ramdisk.gone())
            self.ramdisk = None

    def _died(self) -> None:
        """The ramdisk died by itself; the power stays on."""
        self._stop()
        if self.faults.dies_restarting:
            self._start()
        self._changed()

    async def _power_on_self_test(self) -> bool:
        await asyncio.sleep(self.faults.boot_time)
        await self.faults.posted.wait()
        return not self.faults.never_boots

    async def _boot_disk(self) -> bool:
        with self.disk.open("rb") as file:
            head = file.read(SECTOR)
        if head[-2:] != _SIGNATURE:
            return False
        self.counters.disk_boots += 1
        self.running = "instance"
        return True

    async def _boot_network(self) -> bool:
        if self.faults.no_network:
            return False
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as web:

            async def fetch(url: str) -> bytes:
                try:
                    async with web.get(url, raise_for_status=True) as answer:
                        return await answer.read()
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    raise LoadError(str(error)) from error

            end = await Ipxe(self.macs, fetch, self._pause).run(f"{self._boot_url}/boot.ipxe")
        self.counters.network_boots += 1
        if isinstance(end, Restart):
            self.counters.starts += 1
            return False
        if isinstance(end, Disk):
            return await self._boot_disk()
        if isinstance(end, Kernel):
            self.counters.ramdisks += 1
            if not self.faults.panics:
                await self._run_ramdisk(end.command_line)
            return True
        return False

    async def _run_ramdisk(self, command_line: str) -> None:
        run = self.directory / f"boot{next(self._boots)}"
        if run.exists():
            shutil.rmtree(run)
        run.mkdir()
        self.running = "ramdisk"
        self.ramdisk = Ramdisk(self._site, run, command_line, self.faults, self.counters, self._pause, self._died, self.macs)
        await self.ramdisk.boot()
