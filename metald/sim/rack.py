"""A simulated fleet in one process: BMCs behind one UDP socket, machines with addresses of their own, and one of each server.

Machine number n has its BMC at the nth address after `bmc_base` and itself at the nth after `machine_base`, all on the
loopback device; the address that something is sent to says whom it is for. Rules: what is started is ended by `close`;
everything that chance decides follows from `seed`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metald.sim import fate
from metald.sim.agent_server import AgentServer
from metald.sim.blade import Blade, Plan
from metald.sim.bmc import Fleet, addresses
from metald.sim.chassis import SimBmc
from metald.sim.control import ControlServer
from metald.sim.disk import Shelf
from metald.sim.fate import Fault, FaultError
from metald.sim.rmcp import User
from metald.sim.sshd import Sshd
from metald.sim.story import Injection, Story, StoryError, read

_BASES = 1 << 16
"""Most machines: the addresses between the two bases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the fleet is."""

    nodes: int
    seed: int = 0
    boot_url: str = "http://127.0.0.1:6386"
    tftp: tuple[str, int] | None = None
    time_scale: float = 1.0
    post: tuple[float, float] = (0.0, 60.0)
    kernel_seconds: float = 10.0
    faults: Sequence[Fault] = ()
    injections: Sequence[Injection] = ()
    user: str = "admin"
    password: str = field(default="secret", repr=False)
    slots: int = 5
    ipmi_port: int = 0
    control: tuple[str, int] = ("127.0.0.1", 0)
    disk_size: int = 64 << 30
    image_size: int = 1 << 20
    log: Path | None = None
    bmc_base: str = "127.20.0.0"
    machine_base: str = "127.80.0.0"


class Rack:
    """See the module. An async context manager.

    Args:
        options: what the fleet is.

    Raises:
        FaultError: there are more machines than addresses.
    """

    def __init__(self, options: Options) -> None:
        if not 1 <= options.nodes < _BASES:
            raise FaultError(f"The number of nodes must be from 1 to {_BASES - 1}.")
        self.options = options
        self.blades: dict[str, Blade] = {}
        self.story: Story
        self.sshd = Sshd(lambda address: found.ramdisk if (found := self._by_address.get(address)) else None)
        self.agents = AgentServer(lambda address: found.agent if (found := self._by_address.get(address)) else None)
        self.control = ControlServer(self, options.image_size)
        self._by_address: dict[str, Blade] = {}
        self._fleet: Fleet
        self._timers: list[asyncio.TimerHandle] = []
        self._stack = contextlib.AsyncExitStack()

    @property
    def ipmi_port(self) -> int:
        """The UDP port of every BMC."""
        return self._fleet.port

    async def __aenter__(self) -> Rack:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        options = self.options
        self.story = Story(options.log)
        self._stack.callback(self.story.close)
        self.sshd.start()
        self._stack.push_async_callback(self.sshd.close)
        await self.agents.start()
        self._stack.push_async_callback(self.agents.close)
        self._build()
        self._fleet = Fleet((blade.bmc for blade in self.blades.values()), port=options.ipmi_port)
        await self._fleet.start()
        self._stack.push_async_callback(self._end)
        await self.control.start(*options.control)
        self._stack.push_async_callback(self.control.close)
        self.story.tell("", "fleet", **_told(options))
        loop = asyncio.get_running_loop()
        self._timers += [loop.call_later(one.at * options.time_scale, self._scheduled, one) for one in options.injections]

    def _build(self) -> None:
        options = self.options
        plan = Plan(
            seed=options.seed,
            story=self.story,
            shelf=Shelf(),
            boot_url=options.boot_url.rstrip("/"),
            tftp=options.tftp,
            post=options.post,
            kernel_seconds=options.kernel_seconds,
            pace=options.time_scale,
            ssh_port=self.sshd.port,
            agent_port=self.agents.port,
            disk_size=options.disk_size,
        )
        user = User(options.user, options.password)
        width = len(str(options.nodes - 1))
        places = zip(addresses(options.bmc_base, options.nodes), addresses(options.machine_base, options.nodes), strict=True)
        for number, (bmc_address, address) in enumerate(places):
            bmc = SimBmc(bmc_address, users=(user,), slots=options.slots, seed=options.seed)
            name = f"sim-{number:0{width}d}"
            blade = Blade(name, bmc, address, (mac(number),), plan)
            fate.spread(options.faults, options.seed, name, bmc, blade.wrongs)
            blade.attach()
            self.blades[name] = self._by_address[address] = blade

    async def _end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await self._fleet.close()
        for blade in self.blades.values():
            await blade.detach()

    # -- control

    def _scheduled(self, one: Injection) -> None:
        self.inject(one.nodes, one.fault, one.seconds)

    def chosen(self, nodes: str) -> list[Blade]:
        """`all`, the name of a machine, names with commas, or a share that the seed chooses.

        Raises:
            FaultError: it is none of these.
        """
        if nodes == "all":
            return list(self.blades.values())
        if nodes.endswith("%"):
            share = fate.share(nodes)
            return [blade for blade in self.blades.values() if fate.chance(self.options.seed, blade.name, "chosen") < share]
        unknown = [name for name in nodes.split(",") if name not in self.blades]
        if unknown:
            raise FaultError(f"There is no machine {unknown[0]!r}. Write all, a share such as 10%, or names with commas.")
        return [self.blades[name] for name in nodes.split(",")]

    def inject(self, nodes: str, fault: Mapping[str, Any], seconds: float = 0.0) -> int:
        """Let some machines have faults now; `{"restart": true}` restarts their BMCs, `{"clear": true}` ends every fault.

        Args:
            nodes: see `chosen`.
            fault: faults by name, with their values.
            seconds: of the fleet's time, after which they end; 0 is for good.

        Returns:
            How many machines are struck.

        Raises:
            FaultError: names what is wrong.
        """
        if not isinstance(fault, Mapping) or not fault:
            raise FaultError('fault must be an object such as {"dead": true}.')
        struck = self.chosen(nodes)
        for blade in struck:
            self._strike(blade, fault)
        at = round(self.story.now / self.options.time_scale, 3)
        self.story.tell("", "injected", nodes=nodes, fault=dict(fault), seconds=seconds, at=at)
        if seconds > 0:
            ended = {name: 0 for name in fault if name in fate.KINDS}
            self._timers.append(asyncio.get_running_loop().call_later(seconds * self.options.time_scale, self._relent, struck, ended))
        return len(struck)

    @staticmethod
    def _strike(blade: Blade, fault: Mapping[str, Any]) -> None:
        for name, value in fault.items():
            if name == "restart":
                blade.restart_bmc()
            elif name == "clear":
                fate.clear(blade.bmc, blade.wrongs)
            else:
                fate.change(name, value, blade.bmc, blade.wrongs)

    def _relent(self, struck: Sequence[Blade], ended: Mapping[str, Any]) -> None:
        for blade in struck:
            self._strike(blade, ended)

    def power(self, name: str, on: bool) -> None:
        """Change a machine's power behind the BMC's back.

        Raises:
            KeyError: there is no such machine.
        """
        self.blades[name].bmc.set_power(on)

    # -- what there is to see

    def state(self) -> dict[str, Any]:
        """The fleet as a whole."""
        running = Counter(blade.running or "off" for blade in self.blades.values())
        options = self.options
        return {
            "nodes": options.nodes,
            "seed": options.seed,
            "time_scale": options.time_scale,
            "ipmi_port": self.ipmi_port,
            "running": dict(running),
            "events": self.story.count,
            "image": {"url": f"{self.control.url}/image.raw", "sha256": self.control.image_sha256},
            "defects": [repr(defect) for blade in self.blades.values() for defect in blade.defects][:10],
        }

    def ledger(self) -> dict[str, int]:
        """Every counter, added up; `power` is how many are on."""
        total: Counter[str] = Counter()
        for blade in self.blades.values():
            total.update({key: value for key, value in blade.report().items() if isinstance(value, int)})
            total["power"] += blade.bmc.power
        return dict(total)

    def listed(self) -> list[dict[str, Any]]:
        """One line for each machine."""
        return [
            {
                "name": blade.name,
                "bmc": blade.bmc.address,
                "address": blade.address,
                "macs": list(blade.macs),
                "power": "on" if blade.bmc.power else "off",
                "running": blade.running,
                "faults": fate.shown(blade.bmc, blade.wrongs),
            }
            for blade in self.blades.values()
        ]

    def shown(self, name: str) -> dict[str, Any]:
        """One machine: counters, faults, story.

        Raises:
            KeyError: there is none of that name.
        """
        blade = self.blades[name]
        return {**blade.report(), "faults": fate.shown(blade.bmc, blade.wrongs), "story": self.story.of(name)}


def _told(options: Options) -> dict[str, Any]:
    """What a replay has to know of a fleet."""
    return {
        "nodes": options.nodes,
        "seed": options.seed,
        "time_scale": options.time_scale,
        "post": list(options.post),
        "kernel_seconds": options.kernel_seconds,
        "faults": [[fault.name, fault.value, fault.who] for fault in options.faults],
    }


def replayed(path: Path) -> dict[str, Any]:
    """The options that make a logged fleet live again.

    Raises:
        StoryError: the file is no log of a fleet.
    """
    told, injections = read(path)
    try:
        return {
            "nodes": int(told["nodes"]),
            "seed": int(told["seed"]),
            "time_scale": float(told["time_scale"]),
            "post": (float(told["post"][0]), float(told["post"][1])),
            "kernel_seconds": float(told["kernel_seconds"]),
            "faults": tuple(Fault(str(name), float(value), float(who)) for name, value, who in told["faults"]),
            "injections": tuple(injections),
        }
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise StoryError(f"{path} is no log of a simulated fleet: {error}.") from None


def mac(number: int) -> str:
    """The MAC address of machine `number`'s first card: locally administered, the same in every fleet."""
    digits = f"5254{number:08x}"
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))
