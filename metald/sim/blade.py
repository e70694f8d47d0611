"""A light machine: all that metald sees of a server, and nothing else, so that ten thousand fit into one process.

It has an address, cards, a disk that counts, a serial console and firmware that asks the boot servers over TFTP and HTTP and
follows their scripts. What it boots is decided by the kernel line: the SSH ramdisk (`light.py`), Ironic's agent (`agent.py`)
or the instance on its disk.

Rules: as `life.py`. Chance comes from `fate.py` alone; every effect and every stroke of fate is told to the story.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from metald.sim import tftp
from metald.sim.agent import Agent
from metald.sim.chassis import SimBmc
from metald.sim.disk import Disk, Shelf
from metald.sim.fate import Wrongs, chance
from metald.sim.ipxe import Disk as DiskEnd
from metald.sim.ipxe import Ipxe, Kernel, LoadError, Restart
from metald.sim.life import Life
from metald.sim.light import LightRamdisk
from metald.sim.story import Story
from metald.sim.web import Web, WebError
from metald.sim.writer import Writer

_BMC_SILENCE = 10.0
"""Seconds that a restarting BMC says nothing."""
_DEATH_AT = 256 << 10
"""Most bytes of a write after which a ramdisk dies that is to die."""
_DEATH_COMMAND = 3
"""The command that it does not survive when it writes nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all machines of a fleet share."""

    seed: int
    story: Story
    shelf: Shelf
    boot_url: str
    tftp: tuple[str, int] | None = None
    """The TFTP server that the boot ROM asks for its loader; without one it has iPXE built in."""
    loader: str = "undionly.kpxe"
    post: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds of the firmware's self-test."""
    kernel_seconds: float = 0.0
    """From the kernel's start until the ramdisk calls, or the instance has its login prompt."""
    pace: float = 1.0
    ssh_port: int = 22
    agent_port: int = 9999
    disk_size: int = 64 << 30


class Blade(Life):
    """See the module.

    Args:
        name: of the machine.
        bmc: its BMC.
        address: where its ramdisks are reached.
        macs: of its cards.
        plan: what it shares with others.
    """

    def __init__(self, name: str, bmc: SimBmc, address: str, macs: tuple[str, ...], plan: Plan) -> None:
        super().__init__(bmc, name, plan.pace)
        self.name = name
        self.address = address
        self.macs = macs
        self.serial = name
        self.wrongs = Wrongs()
        self.web = Web(address)
        self.disk = Disk(plan.disk_size, plan.shelf)
        self.ramdisk: LightRamdisk | None = None
        self.agent: Agent | None = None
        self.fetched = 0
        """Bytes that came by TFTP and HTTP before a ramdisk ran."""
        self._plan = plan
        self._work: set[asyncio.Task[None]] = set()
        self._death: int | None = None
        self._commands = 0
        bmc.on_input = self._typed

    # -- what ramdisks need (light.Host)

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the machine's power."""
        task = self._own(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def pause(self, seconds: float) -> None:
        """Let the machine's time pass."""
        await self._pause(seconds)

    def writer(self) -> Writer:
        """A way to the disk."""
        return Writer(self.web, self.disk, self.counters, speed=self.wrongs.slow_disk, died=self._written)

    def commanded(self) -> None:
        """A command came."""
        self._commands += 1
        if self._death is not None and self._commands == _DEATH_COMMAND:
            self._die()

    def told(self, event: str, **detail: Any) -> None:
        """Something happened to this machine."""
        self._plan.story.tell(self.name, event, **detail)

    def turn(self, power: bool) -> None:
        """What runs here turns the machine off, or starts it again."""
        if power:
            self.counters.starts += 1
            self.told("restart")
            self._stop()
            self._start()
        else:
            self.bmc.set_power(False)

    # -- power

    def _chance(self, fault: str, probability: float) -> bool:
        return probability > 0 and chance(self._plan.seed, self.name, fault, self.counters.starts) < probability

    def _effect(self, bmc: SimBmc, effect: str) -> None:
        self.told(effect)
        super()._effect(bmc, effect)
        if effect == "power_on" and self._chance("bmc-restart", self.wrongs.bmc_restart) and not bmc.faults.dead:
            self.told("fault", fault="bmc-restart")
            asyncio.get_running_loop().call_soon(self.restart_bmc)  # after the answer to the command

    def restart_bmc(self) -> None:
        """The BMC forgets its sessions and is silent for a while."""
        faults = self.bmc.faults
        self.bmc.restart()
        faults.dead = True
        asyncio.get_running_loop().call_later(_BMC_SILENCE * self._pace, setattr, faults, "dead", False)

    def _cut(self) -> None:
        if self.ramdisk is not None:
            self.ramdisk.cut()
            self.ramdisk = None
        self.agent = None
        for task in self._work:
            task.cancel()
        self.web.close()
        self._death, self._commands = None, 0

    def _written(self, done: int) -> bool:
        if self._death is None or done < self._death:
            return False
        self._die()
        return True

    def _die(self) -> None:
        """The ramdisk dies; the power stays on."""
        self.told("fault", fault="agent-dies")
        self._print("Kernel panic - not syncing: the simulation wants it so\n")
        self._stop()

    # -- the console

    def _print(self, text: str) -> None:
        if self.bmc.sol is not None:
            self.bmc.print(text.replace("\n", "\r\n").encode())

    def _typed(self, keys: bytes) -> None:
        self._print(keys.decode("latin-1").replace("\r", f"\n{self._prompt()}"))

    def _prompt(self) -> str:
        return f"{self.name} login: " if self.running in ("ramdisk", "instance") else ""

    # -- life

    async def _power_on_self_test(self) -> bool:
        low, high = self._plan.post
        self._print(f"\nmetald sim: {self.name}, cards {' '.join(self.macs)}\nSelf-test ...\n")
        if self._chance("hung-post", self.wrongs.hung_post):
            self.told("fault", fault="hung-post")
            return False
        await self._pause(low + (high - low) * chance(self._plan.seed, self.name, "post", self.counters.starts))
        return True

    async def _boot_disk(self) -> bool:
        if not self.disk.bootable:
            self._print("No bootable disk.\n")
            return False
        self._print("Booting from the disk ...\nLinux version 6.1.0-sim\n")
        await self._pause(self._plan.kernel_seconds)
        self.counters.disk_boots += 1
        self.running = "instance"
        self.told("disk_boot")
        self._print(f"\nDebian GNU/Linux 12 {self.name} ttyS0\n\n{self._prompt()}")
        return True

    async def _boot_network(self) -> bool:
        if self.wrongs.no_network:
            self._print("No address by DHCP.\n")
            return False
        if not await self._load_loader():
            return False
        end = await Ipxe(self.macs, self._fetch, self.pause, load=self._load).run(f"{self._plan.boot_url}/boot.ipxe")
        self.counters.network_boots += 1
        if isinstance(end, Restart):
            self.counters.starts += 1
            return False
        if isinstance(end, DiskEnd):
            return await self._boot_disk()
        if isinstance(end, Kernel):
            await self._start_kernel(end.command_line)
            return True
        return False

    async def _load_loader(self) -> bool:
        server = self._plan.tftp
        if server is None:
            return True
        self._print(f"TFTP {self._plan.loader} ...\n")
        try:
            got = await tftp.fetch(server, self._plan.loader, source=self.address, keep=False, blksize=1468, tsize=0)
        except (TimeoutError, OSError) as error:
            self._print(f"TFTP: {error}\n")
            return False
        self.fetched += got.size
        if got.error:
            self._print(f"TFTP: {got.error}\n")
        return got.done

    async def _fetch(self, url: str) -> bytes:
        try:
            answer = await self.web.get(url)
        except WebError as error:
            raise LoadError(str(error)) from None
        self.fetched += answer.size
        return bytes(answer.body)

    async def _load(self, url: str) -> int:
        self._print(f"{url} ...\n")
        try:
            answer = await self.web.get(url, sink=_discard)
        except WebError as error:
            raise LoadError(str(error)) from None
        self.fetched += answer.size
        return answer.size

    async def _start_kernel(self, command_line: str) -> None:
        self.counters.ramdisks += 1
        self.running = "ramdisk"
        self.told("ramdisk")
        self._print(f"Linux version 6.1.0-sim\nCommand line: {_hidden(command_line)}\n")
        self.web.close()
        if self._chance("agent-dies", self.wrongs.agent_dies):
            self._death = int(_DEATH_AT * chance(self._plan.seed, self.name, "death", self.counters.starts))
        await self._pause(self._plan.kernel_seconds)
        words = dict(word.partition("=")[::2] for word in command_line.split() if "=" in word)
        if "ipa-api-url" in words:
            self.agent = Agent(self, words, self._plan.agent_port, self._plan.pace)
            self.own(self.agent.run())
        elif {"metald.url", "metald.node", "metald.token"} <= words.keys():
            self.ramdisk = LightRamdisk(self, words, self._plan.ssh_port)
            await self.ramdisk.boot()
        self._print(f"\nramdisk of {self.name}\n\n{self._prompt()}")

    def report(self) -> dict[str, Any]:
        """Every counter of the machine and its BMC."""
        own = {name: getattr(self.counters, name) for name in type(self.counters).__dataclass_fields__}
        return {**own, "fetched": self.fetched, **self.bmc.report(), "running": self.running}


def _discard(_: bytes) -> float:
    return 0.0


def _hidden(command_line: str) -> str:
    """The kernel line without the tokens of this boot."""
    return " ".join(word.partition("=")[0] + "=***" if "token" in word.partition("=")[0] else word for word in command_line.split())
