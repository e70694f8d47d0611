"""What a simulated fleet of BMCs costs metald: ten thousand of them, slow ones, dead ones, lossy networks.

    .venv/bin/python benchmarks/fleet.py [--parts sweep,slow,trouble,sync] [--nodes 10000] [--json FILE]

- sweep: the power of all BMCs with new logins. Bar: 30 s, no false failure.
- slow: a round over 200 BMCs that take 0.3 s to answer, on kept sessions. Bar: 1 s.
- trouble: kept power queries beside 10 % dead BMCs and 5 % loss. Bar: the healthy ones' median changes by less than 20 %.
- sync: a daemon that looks at the power of all BMCs every 60 s. Bar: 15 % of one core.

The simulator is a process of its own on the same machine. Wall times depend on what else runs there: the load average is printed.
Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.bars import Bar, say, verdict
from benchmarks.parts.process import cpu_ms, rss_mib
from benchmarks.parts.sim import Bmcs, bmcs, sim
from benchmarks.parts.site import Site
from metald import runtime
from metald.config import Ipmi
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import IpmiHub
from metald.errors import MetaldError


async def _all(work: Iterable[Callable[[], Coroutine[Any, Any, Any]]], at_once: int) -> tuple[list[float], int]:
    """Run all by `at_once` tasks; seconds of each that succeeded, and how many failed."""
    took: list[float] = []
    failed = 0
    left = iter(work)

    async def worker() -> None:
        nonlocal failed
        for one in left:
            begun = time.perf_counter()
            try:
                await one()
            except MetaldError:
                failed += 1
            else:
                took.append(time.perf_counter() - begun)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return took, failed


async def sweep(count: int) -> list[Bar]:
    async with bmcs(count) as fleet:
        hub = IpmiHub(Ipmi(session_idle=600.0))
        await hub.start()
        try:
            cpu, theirs, begun = time.process_time(), cpu_ms(fleet.pid), time.perf_counter()
            _, failed = await _all([Bmc(hub, info).power_is_on for info in fleet.infos], 1024)
            wall = time.perf_counter() - begun
            print(
                f"sweep: {count} BMCs with new logins in {wall:.1f} s, {1000 * (time.process_time() - cpu) / count:.3f} ms of CPU each, "
                f"the simulator {(cpu_ms(fleet.pid) - theirs) / count:.3f} ms"
            )
        finally:
            await hub.close()
    return [Bar(f"{count} BMCs with new logins", wall, 30 * count / 10_000, "s"), Bar("false failures of the sweep", failed, 0, "")]


async def slow(_: int) -> list[Bar]:
    async with bmcs(200) as fleet:
        hub = IpmiHub(Ipmi(session_idle=600.0))
        await hub.start()
        try:
            work = [Bmc(hub, info).power_is_on for info in fleet.infos]
            await _all(work, 200)
            await fleet.ask('faults all {"delay": 0.3}')
            begun = time.perf_counter()
            failed = (await _all(work, 200))[1]
            wall = time.perf_counter() - begun
        finally:
            await hub.close()
    return [Bar("200 BMCs that take 0.3 s, one round", wall, 1.0, "s"), Bar("failures of it", failed, 0, "")]


async def _stream(clients: Sequence[Bmc], healthy: Container[int], rate: float) -> tuple[list[float], int]:
    """Ask each client once, `rate` a second whatever the answers do; seconds of the healthy ones, and their failures."""
    took: list[float] = []
    failed = 0

    async def ask(number: int) -> None:
        nonlocal failed
        begun = time.perf_counter()
        try:
            await clients[number].power_is_on()
        except MetaldError:
            failed += number in healthy
        else:
            took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(len(clients)):
            await asyncio.sleep(begun + number / rate - time.perf_counter())
            group.create_task(ask(number))
    return took, failed


async def _strike(fleet: Bmcs, *, dead: bool, loss: float) -> None:
    for info in fleet.infos[::10]:
        await fleet.ask(f"faults {info.address} {json.dumps({'dead': dead})}")
    await fleet.ask(f"faults all {json.dumps({'loss': loss})}")


async def trouble(_: int) -> list[Bar]:
    count, healthy = 1000, frozenset(number for number in range(1000) if number % 10)
    before: list[float] = []
    during: list[float] = []
    failed = 0
    async with bmcs(count, "--delay", "0.02") as fleet:
        hub = IpmiHub(Ipmi(session_idle=600.0))
        await hub.start()
        try:
            clients = [Bmc(hub, info) for info in fleet.infos]
            await _all([client.power_is_on for client in clients], 256)
            for _ in range(5):  # in turns, for the machine is not equally busy all the time
                before += (await _stream(clients, healthy, 400))[0]
                await _strike(fleet, dead=True, loss=0.05)
                took, lost = await _stream(clients, healthy, 400)
                await _strike(fleet, dead=False, loss=0.0)
                during, failed = during + took, failed + lost
                await _all([client.power_is_on for client in clients], 256)
        finally:
            await hub.close()
    ours, theirs = statistics.median(before), statistics.median(during)
    print(f"trouble: median {1000 * ours:.2f} ms without, {1000 * theirs:.2f} ms beside 10 % dead BMCs and 5 % loss")
    change = Bar("change of the healthy ones' median", 100 * (theirs / ours - 1), 20, "%")
    return [change, Bar("false failures beside dead BMCs", failed, 0, "")]


async def sync(count: int) -> list[Bar]:
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        site = Site(Path(folder))
        async with site.daemon as daemon:
            await daemon.start()
            async with sim(*site.words(count)) as fleet:
                await fleet.until("enrolled")
                cpu, begun = cpu_ms(daemon.pid), time.perf_counter()
                await asyncio.sleep(60)
                share = (cpu_ms(daemon.pid) - cpu) / 10 / (time.perf_counter() - begun)
            print(f"sync: {rss_mib(daemon.pid):.0f} MiB with {count} nodes")
            await daemon.stop()
    return [Bar(f"power of {count} BMCs every 60 s", share, 15 * max(0.2, count / 10_000), "% of a core")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"sweep": sweep, "slow": slow, "trouble": trouble, "sync": sync}
    parser.add_argument("--parts", default=",".join(parts), help="which, with commas")
    parser.add_argument("--nodes", type=int, default=10_000, help="how many BMCs")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts.split(",") if name not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(parts)}")
    runtime.prepare()  # as the daemon does
    bars: list[Bar] = []
    for name in arguments.parts.split(","):
        found = asyncio.run(parts[name](arguments.nodes))
        say(found)
        bars += found
    return verdict(bars, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
