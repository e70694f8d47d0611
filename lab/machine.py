"""The supervisor of one machine: turns what its BMC is told into QEMU processes, and counts what happens to it.

One task owns the machine and takes power actions one after the other; the BMC only puts them in its queue, as a real
one raises a line and returns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.chassis import Action, Chassis, Device
from lab.hardware import Hardware
from lab.process import LabError, spawn, stop
from lab.qmp import Qmp
from lab.serial import SerialLine

_OFF_TIME = 0.2
"""Seconds that a power cycle leaves the machine without power."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a machine.

    Attributes:
        at: `time.time()`.
        what: `boot`, `off`, or `ignored`.
        why: a power action of the BMC, or QEMU's reason such as `guest-reset`.
        device: the device that the boot flags forced, for a boot.
    """

    at: float
    what: str
    why: str
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    process: asyncio.subprocess.Process
    reason: str


class Machine:
    """One machine.

    Attributes:
        happenings: everything that happened to its power, oldest first.
        stuck: set it, and power actions are accepted and have no effect, as with a broken relay.
        failed: why QEMU cannot be started; empty when it can.
    """

    def __init__(self, hardware: Hardware, directory: Path, *, wrap: Sequence[str] = ()) -> None:
        self.hardware = hardware
        self.serial_log = directory / "serial.log"
        self.qemu_log = directory / "qemu.log"
        self.line = SerialLine()
        self.chassis = Chassis(act=self._accept)
        self.happenings: list[Happening] = []
        self.stuck = False
        self.failed = ""
        self._directory = directory
        self._wrap = list(wrap)
        self._inbox: asyncio.Queue[Action | _Ended] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._qmp: Qmp | None = None
        self._owner: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._boots = 0

    async def start(self) -> None:
        """Bring up the supervisor; the machine is off."""
        self.serial_log.touch()
        await self.line.start()
        self._owner = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Pull the plug, for good."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        await self._end_process()
        self.chassis.on = False
        await self.line.close()

    @property
    def on(self) -> bool:
        """Whether it has power."""
        return self.chassis.on

    @property
    def power_ons(self) -> int:
        """How often it went from off to on."""
        return self._count("boot", Action.ON, Action.CYCLE)

    @property
    def resets(self) -> int:
        """How often its BMC reset or cycled it."""
        return self._count("boot", Action.RESET, Action.CYCLE)

    @property
    def guest_reboots(self) -> int:
        """How often its own system restarted it."""
        return self._count("boot", "guest-reset")

    @property
    def boots(self) -> list[Happening]:
        """Every boot, oldest first."""
        return [one for one in self.happenings if one.what == "boot"]

    def press(self, action: Action) -> None:
        """Do what the BMC would do."""
        self._accept(action)

    def _count(self, what: str, *why: str) -> int:
        return sum(one.what == what and one.why in why for one in self.happenings)

    def _note(self, what: str, why: str, device: Device | None = None) -> None:
        self.happenings.append(Happening(time.time(), what, str(why), device))

    def _accept(self, action: Action) -> None:
        if self.stuck:
            self._note("ignored", action)
        else:
            self._inbox.put_nowait(action)

    async def _run(self) -> None:
        while True:
            message = await self._inbox.get()
            try:
                if isinstance(message, _Ended):
                    await self._ended(message)
                else:
                    await self._do(message)
            except LabError as error:
                # A machine that does not come up is off for its BMC; the text is for whoever looks why.
                self.failed = str(error)
                self.chassis.on = False

    async def _do(self, action: Action) -> None:
        match action:
            case Action.ON if not self.on:
                await self._boot(action)
            case Action.OFF if self.on:
                await self._off(action)
            case Action.RESET if self.on:
                await self._end_process()
                await self._boot(action)
            case Action.CYCLE if self.on:
                await self._off(action)
                await asyncio.sleep(_OFF_TIME)
                await self._boot(action)
            case Action.SOFT if self._qmp is not None:
                await self._qmp.send("system_powerdown")
            case Action.NMI if self._qmp is not None:
                await self._qmp.send("inject-nmi")

    async def _off(self, why: str) -> None:
        await self._end_process()
        self.chassis.on = False
        self._note("off", why)

    async def _ended(self, message: _Ended) -> None:
        """QEMU ended by itself."""
        if message.process is not self._process:
            return
        await self._end_process()
        if message.reason == "guest-reset":
            await self._boot(message.reason)
        else:
            self.chassis.on = False
            self._note("off", message.reason)

    async def _boot(self, why: str) -> None:
        forced = self.chassis.boot()
        self.chassis.on = True
        self.chassis.restart_cause = 0x0A if why == "guest-reset" else 0x01
        self._note("boot", why, forced)
        self._boots += 1
        qmp, serial = self._directory / f"q{self._boots}", self._directory / f"s{self._boots}"
        argv = self.hardware.command(qmp=qmp, serial=serial, serial_log=self.serial_log, forced=forced)
        process = self._process = await spawn([*self._wrap, *argv], self.qemu_log)
        try:
            self._qmp = await Qmp.connect(qmp, process)
            await self.line.plug(serial)
            await self._qmp.execute("cont")
        except LabError as error:
            said = self.qemu_log.read_text(errors="replace")[-500:].strip()
            await self._end_process()
            raise LabError(f"{self.hardware.name}: {error} {said}") from error
        finally:
            qmp.unlink(missing_ok=True)
            serial.unlink(missing_ok=True)
        self._watcher = asyncio.create_task(self._watch(process, self._qmp))

    async def _watch(self, process: asyncio.subprocess.Process, qmp: Qmp) -> None:
        await qmp.watch()
        await process.wait()
        self._inbox.put_nowait(_Ended(process, qmp.shutdown_reason or f"exit code {process.returncode}"))

    async def _end_process(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        await self.line.unplug()
        if self._process is not None:
            await stop(self._process, grace=0)
            self._process = None
