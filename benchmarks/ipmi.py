"""What a BMC costs: a login with one power query, a query on a kept session, and a fork of ipmitool beside them.

    .venv/bin/python benchmarks/ipmi.py [--bmcs 2000] [--ipmitool 40] [--json FILE]

The simulator runs in a process of its own; figures are CPU seconds (user and system) of this process, which collects garbage as
the daemon does, or of the forked programs, per operation. They depend little on how busy the machine is; wall times do, and are
shown for information.
Bars: login+power at least 40 times cheaper than ipmitool in the same run and at most 0.45 ms, a kept query at least 150 times and at
most 0.12 ms. Exits 1 when a bar is missed or any operation failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metald import runtime
from metald.config import Ipmi
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.ipmitool import Ipmitool

LOGIN_BAR = 40.0
LOGIN_MS = 0.45
KEPT_BAR = 150.0
KEPT_MS = 0.12


class Figure(NamedTuple):
    name: str
    operations: int
    failed: int
    cpu_ms: float
    wall: float

    @property
    def rate(self) -> float:
        return self.operations / self.wall


async def measure(name: str, who: int, work: list[Callable[[], Awaitable[object]]], at_once: int) -> Figure:
    """Run all of `work` by `at_once` tasks."""
    failed = 0
    left = iter(work)

    async def worker() -> None:
        nonlocal failed
        for one in left:
            try:
                await one()
            except Exception as error:
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)

    before, begin = cpu(who), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    wall = time.perf_counter() - begin
    return Figure(name, len(work), failed, (cpu(who) - before) / len(work) * 1000, wall)


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def run(count: int, forks: int) -> list[Figure]:
    simulator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metald.sim.bmc", "--count", str(count), "--base", "127.40.0.0"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert simulator.stdin is not None
    assert simulator.stdout is not None
    try:
        ready = json.loads(await simulator.stdout.readline())
        first = ready["first"].split(".")
        assert first == ["127", "40", "0", "1"]
        infos = [BmcInfo(f"127.40.{n >> 8}.{n & 255}", ready["port"], "admin", "secret") for n in range(1, count + 1)]
        settings = Ipmi(session_idle=600.0)
        hub = IpmiHub(settings)
        await hub.start()
        clients = [Bmc(hub, info) for info in infos]
        try:
            figures = [await measure("login + power, own hub", resource.RUSAGE_SELF, [c.power_is_on for c in clients], 512)]
            figures.append(await measure("kept power, own hub", resource.RUSAGE_SELF, [c.power_is_on for c in clients * 3], 512))
        finally:
            await hub.close()
        tool = Ipmitool(settings)
        programs = [Bmc(tool, info) for info in infos[:forks]]
        figures.append(await measure("login + power, ipmitool", resource.RUSAGE_CHILDREN, [p.power_is_on for p in programs], 2))
    finally:
        simulator.stdin.close()
        await simulator.wait()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bmcs", type=int, default=2000)
    parser.add_argument("--ipmitool", type=int, default=40, help="how many times to fork it")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    runtime.prepare()
    login, kept, forked = figures = asyncio.run(run(arguments.bmcs, arguments.ipmitool))
    print(f"{'':28}{'operations':>12}{'failed':>8}{'CPU ms/op':>11}{'ops/s':>9}{'x ipmitool':>12}")
    for figure in figures:
        ratio = forked.cpu_ms / figure.cpu_ms
        print(f"{figure.name:28}{figure.operations:12}{figure.failed:8}{figure.cpu_ms:11.3f}{figure.rate:9.0f}{ratio:12.1f}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB with {arguments.bmcs} sessions")
    bars = {
        f"login+power >= {LOGIN_BAR:g} x cheaper than ipmitool": forked.cpu_ms / login.cpu_ms >= LOGIN_BAR,
        f"login+power <= {LOGIN_MS:g} ms of CPU": login.cpu_ms <= LOGIN_MS,
        f"kept power >= {KEPT_BAR:g} x cheaper than ipmitool": forked.cpu_ms / kept.cpu_ms >= KEPT_BAR,
        f"kept power <= {KEPT_MS:g} ms of CPU": kept.cpu_ms <= KEPT_MS,
        "nothing failed": not any(figure.failed for figure in figures),
    }
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {bar}")
    if arguments.json:
        arguments.json.write_text(json.dumps([figure._asdict() for figure in figures], indent=1))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
