"""What it costs to look at the power of a whole fleet, as the daemon does it: a new login for each look, one smooth stream.

    .venv/bin/python benchmarks/power_sync.py [--bmcs 10000] [--seconds 30] [--ipmitool 20]

The simulated BMCs are in a process of their own; the figures are CPU seconds of this process. The bar: 10,000 looks within
60 s take at most 15 % of a core. Printed beside it: what forking ipmitool for each look would take, measured in the same run.
Exits 1 when the bar is missed, a node was found to be dead, or not every node was looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metald.config import Ipmi, StoreSettings
from metald.drivers.base import HardwareType
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import IpmiHub, background
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.ipmitool import Ipmitool
from metald.drivers.ipmi.power import PyghmiPower
from metald.drivers.registry import Registry
from metald.model import Event, Node, PowerState, ProvisionState
from metald.statemachine.power_sync import PowerSync
from metald.store.changes import Change
from metald.store.store import Store

BAR = 15.0
FLEET, WITHIN = 10_000, 60.0
_BATCH = 500


def cpu(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def fill(store: Store, count: int, port: int) -> None:
    """Nodes whose power is not known yet."""
    for begin in range(1, count + 1, _BATCH):
        nodes = [
            Node(
                name=f"n{number}",
                driver="ipmi",
                power_interface="pyghmi",
                provision_state=ProvisionState.ACTIVE,
                driver_info={
                    "ipmi_address": f"127.40.{number >> 8}.{number & 255}",
                    "ipmi_port": port,
                    "ipmi_username": "admin",
                    "ipmi_password": "secret",
                },
            )
            for number in range(begin, min(begin + _BATCH, count + 1))
        ]
        await store.commit(Change(save=list(nodes)))


async def passes(store: Store, hub: IpmiHub, settings: Ipmi, count: int, seconds: float) -> list[dict[str, Any]]:
    """One pass in which every power is news, and one in which none is."""
    power = PyghmiPower(hub, settings)
    registry = Registry([HardwareType("ipmi", {"power": ("pyghmi",)})], [power])
    sync = PowerSync(store, registry, seconds, background)
    faults: list[Event] = []
    store.subscribe(lambda events: faults.extend(event for event in events if event.type == "node.maintenance"))
    lag = [0.0]

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            lag.append(time.perf_counter() - began - 0.01)

    found = []
    running, watching = asyncio.create_task(sync.run()), asyncio.create_task(watch())
    for name in ("first pass, every power is news", "steady pass, no news"):
        logins, began, before = hub.logins, time.perf_counter(), cpu()
        lag.clear()
        while hub.logins < logins + count and time.perf_counter() - began < 3 * seconds:
            await asyncio.sleep(0.05)
        wall, used = time.perf_counter() - began, cpu() - before
        lags = sorted(lag)
        found.append({"name": name, "looks": hub.logins - logins, "cpu": used, "wall": wall, "lag": lags[int(len(lags) * 0.99)]})
    for task in (running, watching):
        task.cancel()
    await asyncio.gather(running, watching, return_exceptions=True)
    seen = sum(node.power_state is PowerState.OFF for node in store.table(Node).all())
    return [*found, {"faults": len(faults), "seen": seen}]


async def forks(infos: Sequence[BmcInfo], settings: Ipmi) -> float:
    """CPU seconds of one fork of ipmitool."""
    tool, before = Ipmitool(settings), cpu(resource.RUSAGE_CHILDREN)
    for info in infos:
        await Bmc(tool, info).power_is_on()
    return (cpu(resource.RUSAGE_CHILDREN) - before) / len(infos)


async def run(count: int, seconds: float, forked: int) -> tuple[list[dict[str, Any]], float]:
    simulator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metald.sim.bmc", "--count", str(count), "--base", "127.40.0.0"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert simulator.stdin is not None
    assert simulator.stdout is not None
    settings = Ipmi()
    try:
        port = json.loads(await simulator.stdout.readline())["port"]
        with tempfile.TemporaryDirectory() as directory:
            store = await Store.open(StoreSettings(), Path(directory))
            hub = IpmiHub(settings)
            await hub.start()
            try:
                await fill(store, count, port)
                figures = await passes(store, hub, settings, count, seconds)
            finally:
                await hub.close()
                await store.close()
        cost = await forks([BmcInfo(f"127.40.0.{n}", port, "admin", "secret") for n in range(1, forked + 1)], settings)
    finally:
        simulator.stdin.close()
        await simulator.wait()
    return figures, cost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bmcs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds for one pass")
    parser.add_argument("--ipmitool", type=int, default=20, help="how many times to fork it")
    arguments = parser.parse_args()
    (first, steady, result), fork = asyncio.run(run(arguments.bmcs, arguments.seconds, arguments.ipmitool))
    print(f"{'':34}{'looks':>8}{'seconds':>9}{'CPU ms/look':>13}{'% of a core*':>14}{'loop lag p99':>14}")
    shares = []
    for figure in (first, steady):
        each = figure["cpu"] / max(1, figure["looks"])
        shares.append(each * FLEET / WITHIN * 100)
        counted = f"{figure['name']:34}{figure['looks']:8}{figure['wall']:9.1f}"
        print(f"{counted}{each * 1000:13.3f}{shares[-1]:14.1f}{figure['lag'] * 1000:11.1f} ms")
    print(f"{'ipmitool, a fork for each':34}{arguments.ipmitool:8}{'':9}{fork * 1000:13.3f}{fork * FLEET / WITHIN * 100:14.1f}")
    print(f"* for {FLEET:,} looks within {WITHIN:g} s. Peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB.")
    bars = {
        f"steady power sync of {FLEET:,} per {WITHIN:g} s <= {BAR:g} % of a core": shares[1] <= BAR,
        "every node was looked at, none was held to be dead": result == {"faults": 0, "seen": arguments.bmcs},
    }
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {bar}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
