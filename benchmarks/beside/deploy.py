"""The same fake deployments by metald and by a real Ironic 39 in one run: wall time and CPU.

    .venv/bin/python -m benchmarks.beside.deploy [--nodes 100,1000]

Both are one process on SQLite. Ironic refuses what its worker pool cannot take; such a request is repeated every 0.2 s and
counted. Bars: metald is at least 10 times faster and takes at least 15 times less CPU. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.beside.ironic import Ironic
from benchmarks.parts.deploy import Figure, Storm, deploy, session, show
from tests.support.daemon import Daemon

_FASTER = 10
_LESS_CPU = 15


async def metald(nodes: int, folder: Path) -> Figure:
    """metald's figures."""
    settings = {"conductor.automated_clean": "false", "log.level": "warning"}
    async with Daemon(folder, settings) as daemon, session() as http:
        await daemon.start()
        storm = Storm(http, daemon.url)
        return await deploy(storm, daemon.pid, await storm.available(nodes))


async def ironic(nodes: int, folder: Path) -> Figure:
    """Ironic's figures. One node is brought to `available` and multiplied while Ironic is down."""
    async with Ironic(folder) as server, session() as http:
        storm = Storm(http, server.url)
        await storm.available(1)
        await server.stop()
        server.multiply(nodes)
        await server.start()
        uuids = [node["uuid"] for node in (await storm.ask("GET", "/v1/nodes?fields=uuid&limit=1000"))["nodes"]]
        return await deploy(storm, server.pid, uuids, pause=2.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="100,1000", help="how many at once, several with commas; at most 1000")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    missed: list[str] = []
    kept: list[dict[str, object]] = []
    for nodes in map(int, arguments.nodes.split(",")):
        with tempfile.TemporaryDirectory(prefix="metald-beside-") as folder:
            theirs = asyncio.run(ironic(nodes, Path(folder) / "ironic"))
            own = asyncio.run(metald(nodes, Path(folder) / "metald"))
        print("Ironic 39, then metald:")
        show([theirs, own])
        faster, less = theirs.wall / own.wall, theirs.cpu_ms / own.cpu_ms
        print(f"{nodes} deployments: {faster:.1f} times faster (bar {_FASTER}), {less:.1f} times less CPU (bar {_LESS_CPU})", flush=True)
        kept += [{"server": "ironic", **theirs._asdict()}, {"server": "metald", **own._asdict()}]
        if own.failed or own.refused:
            missed.append(f"{own.failed} of {nodes} failed, {own.refused} requests were refused")
        if faster < _FASTER or less < _LESS_CPU:
            missed.append(f"{nodes} deployments: {faster:.1f} times faster, {less:.1f} times less CPU")
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=2))
    print("\n".join(f"MISSED: {text}" for text in missed) or "all bars are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
