"""What a console costs that many look at: from a BMC's Serial over LAN through a daemon to its readers over TCP. Needs ipmitool.

    .venv/bin/python benchmarks/console.py [--readers 1,10,100] [--bursts 300] [--json FILE]

A simulated machine prints bursts of text, each once everybody has the one before; a burst is as much as 115,200 baud print in a tenth of
a second. Beside it, in the same run, one `ipmitool sol activate` reads the same from the same simulator: it is what Ironic starts for a
console, and serves one reader alone.

CPU is what the kernel counts for the daemon, or for ipmitool, while the text is under way: per MB printed, and per MB and reader. Bars:
every reader gets every byte; with the most readers a reader costs no more than an ipmitool of its own would, and the bursts are with the
last of them as fast as the line brings them (mean). Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pty
import sys
import tempfile
import time
import tty
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.bars import Bar, say, verdict
from benchmarks.parts.load import HEADERS
from benchmarks.parts.process import cpu_ms
from metald.sim.bmc import Fleet, build
from metald.sim.chassis import SimBmc
from tests.support.daemon import Daemon, free_port

BURST = 1152
"""Bytes at once: what a line at 115,200 baud brings in `LINE_MS`."""
LINE_MS = 100.0
_PATIENCE = 60.0
_MIB = 1e6


class Figure(NamedTuple):
    """What so many bursts cost."""

    name: str
    readers: int
    cpu_ms_per_mb: float
    mean_ms: float
    p50_ms: float
    p99_ms: float

    @property
    def each(self) -> float:
        """CPU milliseconds per MB and reader."""
        return self.cpu_ms_per_mb / self.readers

    def __str__(self) -> str:
        return (
            f"{self.name:10} {self.readers:4} readers  {self.cpu_ms_per_mb:8.0f} ms CPU/MB  {self.each:8.1f} ms CPU/MB and reader  "
            f"a burst is with the last in {self.p50_ms:5.1f} ms (p50), {self.p99_ms:5.1f} ms (p99)"
        )


@contextlib.asynccontextmanager
async def machine(address: str) -> AsyncIterator[SimBmc]:
    """A machine that is on, behind a BMC of its own."""
    (bmc,) = build(1, address)
    bmc.power = True
    async with Fleet([bmc]):
        yield bmc


async def measure(name: str, bmc: SimBmc, pid: int, sinks: list[asyncio.StreamReader], bursts: int) -> Figure:
    """Print bursts until every sink has each of them.

    Raises:
        AssertionError: a reader got something else.
    """
    took: list[float] = []
    for number in range(-20, bursts):  # the first ones are to warm up
        if number == 0:
            before = cpu_ms(pid)
        text = f"{number:08} {'.' * (BURST - 11)}\r\n".encode()
        begun = time.perf_counter()
        bmc.print(text)
        async with asyncio.timeout(_PATIENCE):
            for found in await asyncio.gather(*(sink.readexactly(BURST) for sink in sinks)):
                assert found == text, found
        if number >= 0:
            took.append((time.perf_counter() - begun) * 1e3)
    took.sort()
    used = (cpu_ms(pid) - before) / (bursts * BURST / _MIB)
    return Figure(name, len(sinks), used, sum(took) / len(took), took[len(took) // 2], took[int(len(took) * 0.99)])


async def _marked(bmc: SimBmc, sinks: list[asyncio.StreamReader], mark: bytes) -> None:
    """Have every sink read up to a mark that the machine prints: what comes before is not of this measurement."""
    bmc.print(mark)
    async with asyncio.timeout(_PATIENCE):
        for sink in sinks:
            await sink.readuntil(mark)


async def by_metald(folder: Path, counts: list[int], bursts: int) -> list[Figure]:
    """A daemon, and its readers over TCP."""
    port = free_port()
    settings = {"log.level": "warning", "console.port_range": f"{port}:{port}", "console.readers": max(counts)}
    figures = []
    async with machine("127.41.0.0") as bmc, Daemon(folder, settings) as daemon, aiohttp.ClientSession(headers=HEADERS) as http:
        await daemon.start()
        await _enable(http, daemon.url, bmc)
        for count in counts:
            pairs = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 20) for _ in range(count)]
            sinks = [reader for reader, _ in pairs]
            async with asyncio.timeout(_PATIENCE):
                for sink in sinks:  # whoever gets what was before is let in
                    await sink.readexactly(1)
            await _marked(bmc, sinks, b"{%d readers}" % count)
            figures.append(await measure("metald", bmc, daemon.pid, sinks, bursts))
            for _, writer in pairs:
                writer.close()
                await writer.wait_closed()
        await daemon.stop()
    return figures


async def _enable(http: aiohttp.ClientSession, url: str, bmc: SimBmc) -> None:
    """Register the machine, and enable its console."""
    info = {"ipmi_address": bmc.address, "ipmi_port": bmc.port, "ipmi_username": "admin", "ipmi_password": "secret"}
    body = {"name": "m1", "driver": "ipmi", "driver_info": info, "console_interface": "ipmitool-socat"}
    async with http.post(f"{url}/v1/nodes", json=body) as answer:
        assert answer.status == 201, await answer.text()
    async with http.put(f"{url}/v1/nodes/m1/states/console", json={"enabled": True}) as answer:
        assert answer.status == 202, await answer.text()
    async with asyncio.timeout(_PATIENCE):
        while True:
            async with http.get(f"{url}/v1/nodes/m1/states/console") as answer:
                if (await answer.json())["console_enabled"]:
                    return
            await asyncio.sleep(0.05)


async def by_ipmitool(bursts: int) -> Figure:
    """The program that Ironic starts for each console, on a terminal of its own."""
    async with machine("127.41.1.0") as bmc:
        ours, its = pty.openpty()
        tty.setraw(its)
        process = await asyncio.create_subprocess_exec(
            *("ipmitool", "-I", "lanplus", "-C", "17", "-H", bmc.address, "-p", str(bmc.port), "-U", "admin", "-E", "sol", "activate"),
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "IPMI_PASSWORD": "secret"},
        )
        os.close(its)
        sink = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(sink), os.fdopen(ours, "rb"))
        try:
            async with asyncio.timeout(_PATIENCE):
                await sink.readuntil(b"operational")
            await _marked(bmc, [sink], b"{ipmitool}")
            return await measure("ipmitool", bmc, process.pid, [sink], bursts)
        finally:
            process.terminate()
            await process.wait()
            transport.close()


async def run(counts: list[int], bursts: int) -> list[Bar]:
    """Everything, printed."""
    with tempfile.TemporaryDirectory(prefix="metald-bench-") as folder:
        figures = await by_metald(Path(folder), counts, bursts)
    own = await by_ipmitool(bursts)
    for figure in (*figures, own):
        print(figure)
    many = figures[-1]
    return [
        Bar(f"CPU per MB for each of {many.readers} readers, of an ipmitool's", many.each / own.cpu_ms_per_mb, 1.0, "times"),
        Bar(f"until the last of {many.readers} readers has a burst, on average", many.mean_ms, LINE_MS, "ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="1,10,100", help="how many look at once, one after the other")
    parser.add_argument("--bursts", type=int, default=300, help="how much is printed")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    bars = asyncio.run(run(sorted(int(word) for word in arguments.readers.split(",")), arguments.bursts))
    say(bars)
    return verdict(bars, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
