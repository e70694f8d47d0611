"""The rounds of the matrix: each lets the fleet work for a while, makes something terrible happen, and starts the daemon again."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.parts.process import cpu_ms
from lab.matrix.disk import DIES_IN_SYNC, FULL, SYNC_FAILS, Disk
from lab.matrix.fleet import Fleet
from lab.matrix.notes import Notes
from tests.support.daemon import Daemon, Running

ROOT: Final = Path(__file__).resolve().parents[2]
_RESUMED = re.compile(r"resumed (\d+) workflows")
_START = 60.0
_CROWD = 90.0
"""Most seconds that are waited for enough nodes to be in flight, at pace 1."""
KINDS: Final = (
    "kill",
    "power loss",
    "kill",
    "disk full",
    "kill at start",
    "sync fails",
    "kill",
    "power loss",
    "full to the end",
    "broken disk",
)
"""What the rounds are, over and over."""


@dataclass
class Row:
    """What one round showed."""

    number: int
    kind: str
    phases: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    """Workflows that the daemon found unfinished."""
    ready_s: float = 0.0
    """Seconds from the start of the process until it took requests."""
    resumed_s: float = 0.0
    """Seconds from the start of the process until each of them was at its step again."""
    cpu_s: float = 0.0
    """Seconds of CPU that the process had used then."""
    torn: int = 0
    """Bytes that the loss of power took."""
    refused: int = 0
    """Writes and syncs that the disk refused."""
    wrong: list[str] = field(default_factory=list)


class Rounds:
    """See the module.

    Args:
        daemon: what is killed.
        disk: under it.
        fleet: what is in flight.
        notes: what is acknowledged meanwhile.
        chance: chooses moments.
        pace: seconds that one second of the rounds' own waiting takes.
        busy: nodes that are to be in flight before the worst happens.
    """

    def __init__(self, daemon: Daemon, disk: Disk, fleet: Fleet, notes: Notes, chance: random.Random, pace: float, busy: int) -> None:
        self._daemon = daemon
        self._disk = disk
        self._fleet = fleet
        self._notes = notes
        self._chance = chance
        self._pace = pace
        self._busy = busy

    async def run(self, number: int, kind: str) -> Row:
        """One round."""
        row = Row(number, kind)
        await self._fleet.until_busy(self._busy, _CROWD * self._pace)
        await self._pause(0.5, 6.0)
        refusals, judged = sum(self._disk.refusals), len(self._fleet.judgements)
        row.phases = dict(self._fleet.phases())
        match kind:
            case "kill":
                await self._kill()
            case "kill at start":
                await self._kill()
                await self._start_and_kill()
            case "power loss":
                self._disk.order(DIES_IN_SYNC, self._chance.randint(1, 60))
                await self._daemon.ended(30)
                await self._kill()
                row.torn = self._disk.lose_power()
            case "disk full" | "sync fails":
                await self._fail(FULL if kind == "disk full" else SYNC_FAILS, row)
                await self._pause(0.5, 3.0)
                await self._kill()
            case "full to the end" | "broken disk":
                await self._fail(FULL if kind == "full to the end" else SYNC_FAILS, row, heals=False)
                await self._kill()
                row.torn = self._disk.lose_power()
            case _:
                raise ValueError(f"there is no round {kind!r}")
        self._disk.order(0)
        row.refused = sum(self._disk.refusals) - refusals
        row.wrong += await asyncio.to_thread(damage, self._daemon.state_dir)
        await self._start(row)
        row.wrong += await self._notes.check()
        row.wrong += [f"{found.kind}: {found.text}" for found in self._fleet.judgements[judged:]]
        return row

    async def _pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self._pace * self._chance.uniform(least, most))

    async def _fail(self, mode: int, row: Row, *, heals: bool = True) -> None:
        """The disk fails for a while under a daemon that must live on."""
        self._fleet.may_refuse = True
        self._disk.order(mode)
        await self._pause(1.0, 4.0)
        if not self._daemon.alive():
            row.wrong.append("the daemon ended because its disk failed")
        if heals:
            self._disk.order(0)
            await asyncio.sleep(1.0)
            self._fleet.may_refuse = False

    async def _kill(self) -> None:
        self._fleet.alive.clear()
        await self._daemon.kill()

    async def _start_and_kill(self) -> None:
        starting = asyncio.ensure_future(self._daemon.start(self.spawn, ready=False))
        await asyncio.sleep(self._chance.uniform(0.2, 2.5))
        process = self._daemon.pid
        os.kill(process, 9)
        await starting
        await self._daemon.kill()

    async def _start(self, row: Row) -> None:
        log = self._daemon.log
        at = log.stat().st_size
        begun = time.monotonic()
        await self._daemon.start(self.spawn)
        row.ready_s = time.monotonic() - begun
        self._fleet.alive.set()
        self._fleet.may_refuse = False
        async with asyncio.timeout(_START):
            while True:
                with log.open("rb") as file:
                    file.seek(at)
                    found = _RESUMED.search(file.read().decode(errors="replace"))
                if found:
                    break
                await asyncio.sleep(0.01)
        row.resumed, row.resumed_s = int(found[1]), time.monotonic() - begun
        row.cpu_s = cpu_ms(self._daemon.pid) / 1000

    async def spawn(self, environment: dict[str, str], log: Path) -> Running:
        """Start the matrix's daemon."""
        return await spawn(self._disk, environment, log)


async def spawn(disk: Disk, environment: dict[str, str], log: Path) -> Running:
    """Start a daemon over a disk; its fake machines live in a file beside the log."""
    more = {"MATRIX_MACHINES": str(log.parent / "machines"), **disk.environment}
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lab.matrix.daemon"),
            env={**os.environ, **environment, **more},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )


def damage(state_dir: Path) -> Sequence[str]:
    """What is wrong with the database that a dead daemon has left, looked at in a copy: its structure, and gaps between events."""
    copy = state_dir.parent / "copy"
    copy.mkdir(exist_ok=True)
    for name in ("metald.sqlite", "metald.sqlite-wal"):
        if (state_dir / name).exists():
            shutil.copyfile(state_dir / name, copy / name)
    found = []
    connection = sqlite3.connect(copy / "metald.sqlite")
    try:
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        if said != ["ok"]:
            found.append(f"the database is damaged: {said[0]}")
        count, first, last = connection.execute("SELECT count(*), min(seq), max(seq) FROM events").fetchone()
        if count and count != last - first + 1:
            found.append(f"{last - first + 1 - count} events are missing between {first} and {last}")
    except sqlite3.Error as error:
        found.append(f"the database cannot be read: {error}")
    finally:
        connection.close()
        shutil.rmtree(copy)
    return found
