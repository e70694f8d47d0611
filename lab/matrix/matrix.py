"""Sets the matrix up, runs its rounds, waits for everything to end, and says what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from lab.matrix.disk import Disk, compiled
from lab.matrix.fleet import Fleet
from lab.matrix.hardware import Ledger
from lab.matrix.machines import Fates, Machine, OnWire, Outside
from lab.matrix.notes import Notes
from lab.matrix.rounds import KINDS, Rounds, Row, damage, spawn
from metald.sim.enroll import Enroller
from metald.sim.fate import Fault
from metald.sim.rack import Options as RackOptions
from metald.sim.rack import Rack
from tests.support.daemon import MICROVERSION, Daemon, free_port

_FILES = {"ramdisk/kernel": 1 << 16, "ramdisk/initramfs": 1 << 18, "ipxe/undionly.kpxe": 70_000}
_DELAYS = {"power": 3.0, "management": 0.5, "boot": 3.0, "deploy": 30.0, "inspect": 20.0, "rescue": 15.0}
_FAULTS = ("loss=0.01", "hung-post=1%", "agent-dies=2%")
_NOTED = 16
_BUSY = 0.85
"""Share of the nodes that are to be in flight when the worst happens."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the matrix is.

    Args:
        folder: for everything of it.
        nodes: fake machines outside the daemon.
        wire: machines of the simulated fleet.
        rounds: how many.
        pace: seconds that one second of the machines' and the rounds' own waiting takes.
        kinds: of the rounds, over and over.
    """

    folder: Path
    nodes: int
    wire: int
    rounds: int
    seed: int
    pace: float = 1.0
    kinds: Sequence[str] = KINDS
    bases: tuple[str, str] = ("127.22.0.0", "127.82.0.0")
    """Addresses of the simulated BMCs and machines."""


@dataclass
class Report:
    """What a run showed."""

    rows: list[Row] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What failed although nobody wanted it to."""
    wrong: list[str] = field(default_factory=list)
    """What was wrong with the state that a round left, or in the end."""
    done: dict[str, int] = field(default_factory=dict)
    struck: int = 0
    """What failed because the matrix wanted it to."""
    notes: int = 0
    """Small writes that were acknowledged."""


async def run(options: Options, say: Say = lambda _: None, row: Callable[[Row], None] = lambda _: None) -> Report:
    """Run the matrix.

    Args:
        say: told what goes on.
        row: given each round when it is over.
    """
    chance = random.Random(options.seed)
    folder = options.folder
    disk = Disk(await compiled(folder / "build"), folder / "account", folder / "state" / "metald.sqlite", chance)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(disk.close)
        daemon = await stack.enter_async_context(Daemon(folder, _settings(options)))
        await daemon.start(lambda environment, log: spawn(disk, environment, log))
        session = await stack.enter_async_context(_session())
        ledger = Ledger(folder / "machines")
        machines: list[Machine] = [Outside(f"outside-{n}", ledger) for n in range(options.nodes)]
        fleet = Fleet(daemon.url, session, machines, chance)
        fleet.alive.set()
        looking = asyncio.create_task(fleet.look())
        stack.callback(looking.cancel)
        if options.wire:
            machines += await stack.enter_async_context(_rack(options, daemon))
        notes = Notes(fleet, await _enrol(fleet, machines))
        say(f"{len(machines)} nodes are there, {options.wire} of them on the simulated wire")
        busy = int(_BUSY * len(machines))
        rounds = Rounds(daemon, disk, fleet, notes, chance, options.pace, busy)
        report = await _rounds(options, rounds, fleet, notes, machines, say, row)
        report.wrong += await notes.check()
        if await daemon.stop() != 0:
            report.wrong.append("the daemon did not stop cleanly")
        report.wrong += damage(daemon.state_dir)
        report.wrong += [line for line in daemon.output().splitlines() if "has a defect" in line or "cannot go on" in line][:10]
    return report


async def _rounds(
    options: Options, rounds: Rounds, fleet: Fleet, notes: Notes, machines: Sequence[Machine], say: Say, told: Callable[[Row], None]
) -> Report:
    report = Report()
    writing = [asyncio.create_task(notes.write(uuid)) for uuid in notes.nodes]
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(fleet.live(machine))
        try:
            for number in range(options.rounds):
                made = await rounds.run(number + 1, options.kinds[number % len(options.kinds)])
                report.rows.append(made)
                told(made)
        finally:
            fleet.ending = True
            for task in writing:
                task.cancel()
        say("no more rounds: everything comes to its end")
    by_kind = {"lost": report.lost, "twice": report.twice, "failed": report.failed}
    for found in fleet.judgements:
        by_kind[found.kind].append(found.text)
    report.done, report.struck, report.notes = dict(fleet.done), fleet.struck, notes.written
    return report


def _settings(options: Options) -> dict[str, object]:
    for name, size in _FILES.items():
        path = options.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    pace = options.pace
    return {
        "boot.ramdisk_dir": options.folder / "ramdisk",
        "boot.ipxe_dir": options.folder / "ipxe",
        "conductor.automated_clean": "true",
        "conductor.retry_delay": 0.2,
        "conductor.deploy_callback_timeout": max(20.0, 120.0 * pace),
        "conductor.clean_callback_timeout": max(20.0, 120.0 * pace),
        "conductor.restart_grace": max(5.0, 30.0 * pace),
        "drivers.ipmi.power_poll": 0.2,
        "drivers.fake.failure_rate": 0.02,
        **{f"drivers.fake.{kind}_delay": seconds * pace for kind, seconds in _DELAYS.items()},
    }


@contextlib.asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=128), timeout=timeout) as session:
        yield session


@contextlib.asynccontextmanager
async def _rack(options: Options, daemon: Daemon) -> AsyncIterator[list[OnWire]]:
    """The simulated fleet, registered and ready to be deployed; trouble begins when it is."""
    given = RackOptions(
        nodes=options.wire,
        seed=options.seed,
        boot_url=daemon.boot_url,
        time_scale=options.pace / 20,
        bmc_base=options.bases[0],
        machine_base=options.bases[1],
        control=("127.0.0.1", free_port()),
    )
    async with Rack(given) as rack, Enroller(daemon.url) as enroller:
        blades = list(rack.blades.values())
        await enroller.enroll(blades, port=rack.ipmi_port, user=given.user, password=given.password)
        fates = Fates(rack.story)
        made = [OnWire(blade, fates) for blade in blades]
        for machine in made:
            machine.uuid = enroller.uuids[machine.name]
            machine.instance_info = {"image_source": f"{rack.control.url}/image.raw", "image_checksum": rack.control.image_sha256}
        for text in _FAULTS:
            fault = Fault.parse(text)
            rack.inject("all", {fault.name: fault.value})
        yield made


async def _enrol(fleet: Fleet, machines: Sequence[Machine]) -> dict[str, str]:
    """Make the fake machines' nodes available. Returns the nodes for notes."""
    fresh = [machine for machine in machines if not machine.uuid]

    async def make(name: str) -> str:
        made = await fleet.ask("POST", "/v1/nodes", {"name": name, "driver": "fake-hardware"})
        return str(made["uuid"])

    for machine, uuid in zip(fresh, await asyncio.gather(*(make(machine.name) for machine in fresh)), strict=True):
        machine.uuid = uuid
    await fleet.each(fresh, "manage", "manageable")
    await fleet.each(fresh, "provide", "available")
    names = [f"noted-{number}" for number in range(_NOTED)]
    return dict(zip(await asyncio.gather(*map(make, names)), names, strict=True))
