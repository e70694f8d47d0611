"""Pretended machines that live outside the daemon: fake-hardware whose condition and deeds are kept in a file.

The daemon's process appends a line for each effect, at the moment of it; a daemon that is started later reads from there what
the machines are like. A write, an inspection or a rescue is a job of the machine: it goes on while the daemon is dead, and
who asks for the same job again follows it. Lines are `UUID on`, `UUID off`, `UUID KIND WORKFLOW TIME` and `UUID fault KIND`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

from metald.config import Fake
from metald.drivers.fake.hardware import FakeHardware
from metald.errors import DriverError
from metald.model import Node, PowerState

_JOBS = ("deploy", "inspect", "rescue")


class OutsideHardware(FakeHardware):
    """See the module.

    Args:
        settings: delays, and the share of jobs that fail.
        path: the file.
    """

    def __init__(self, settings: Fake, path: Path) -> None:
        super().__init__(settings)
        self._chance = random.Random()
        self._is_on: dict[str, bool] = {}
        self._jobs: dict[tuple[str, str, str], float] = {}
        for uuid, what, *rest in map(str.split, path.read_text().splitlines() if path.exists() else []):
            if what in ("on", "off"):
                self._is_on[uuid] = what == "on"
            elif what in _JOBS:
                self._jobs[uuid, what, rest[0]] = float(rest[1])
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _tell(self, *words: str) -> None:
        os.write(self._file, (" ".join(words) + "\n").encode())

    async def call(self, node: Node, kind: str) -> None:
        """See FakeHardware."""
        delay: float = getattr(self._settings, f"{kind}_delay")
        if kind in _JOBS:
            key = (node.uuid, kind, node.workflow or "")
            if key not in self._jobs:
                self._jobs[key] = time.time()
                self._tell(*key[:2], key[2] or "-", f"{self._jobs[key]:.3f}")
            delay = max(0.0, self._jobs[key] + delay - time.time())
        if delay:
            await asyncio.sleep(delay)
        if kind == "deploy" and self._chance.random() < self._settings.failure_rate:
            self._tell(node.uuid, "fault", kind)
            raise DriverError(f"Node {node.label}: the matrix wants this {kind} to fail.")

    def power(self, node: Node) -> PowerState:
        """See FakeHardware."""
        return PowerState.ON if self._is_on.get(node.uuid) else PowerState.OFF

    def set_power(self, node: Node, state: PowerState) -> None:
        """See FakeHardware."""
        wanted = state is PowerState.ON
        if self._is_on.get(node.uuid, False) != wanted:
            self._is_on[node.uuid] = wanted
            self._tell(node.uuid, "on" if wanted else "off")


class Ledger:
    """Reads what those machines did, from outside.

    Args:
        path: their file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._counts: dict[str, Counter[str]] = {}

    def of(self, uuid: str) -> Counter[str]:
        """What one machine did so far: `power_on`, `power_off`, `deploy`, `inspect`, `rescue`, and `fault`."""
        self._read()
        return Counter(self._counts.get(uuid, {}))

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._at += len(whole)
        for uuid, what, *_ in map(str.split, whole.decode().splitlines()):
            counts = self._counts.setdefault(uuid, Counter())
            counts[f"power_{what}" if what in ("on", "off") else what] += 1
