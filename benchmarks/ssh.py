"""What SSH costs: a thousand ramdisks at once, and a hypervisor host with two hundred machines.

    .venv/bin/python benchmarks/ssh.py [--sessions 1000] [--machines 200] [--json FILE]

The far sides are one SSH server in a process of its own. Figures are CPU of this process; wall times share the machine with
that server and are shown for information. The first part opens all sessions at once, each a connection of its own as for the `ssh`
deploy interface, runs a command on each and then ten on each that is kept; the loop's lag is sampled meanwhile.
The bars are ratios within this run, and counts: a command on a kept session is at least 2 times cheaper than a new session
with one; the longest lag of the loop is less than 200 handshakes' worth of CPU (as if all at once would be far more: it is the
gate that keeps it short); nothing fails; a round of power over the host's machines takes at most two commands.
Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncssh

from metald.boot import credentials
from metald.config import Ssh, SshHost
from metald.drivers.ssh.connection import Connections
from metald.drivers.ssh_host.hosts import Hosts, background
from metald.drivers.ssh_host.power import SshPower
from metald.model import Node
from metald.model.boot import boot_id
from tests.support.bmc import Context

KEPT_BAR = 2.0
LAG_BAR = 200.0
KEPT_ROUNDS = 10


def listing(machines: int) -> str:
    keys = [f"00000000-0000-4000-8000-{number:012d}" for number in range(machines)]
    lines = [f"{key} vm{number}" for number, key in enumerate(keys)] + [""]
    return "\n".join([*lines, *(f"Domain: 'vm{number}'\n  state.state=1\n" for number in range(machines))])


async def serve(machines: int) -> None:
    """The far side: keys come by the input, the port goes by the output. Lets in whoever has the client's key."""
    given = json.loads(await asyncio.to_thread(sys.stdin.readline))
    text = listing(machines)

    def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        if "virsh" in (process.command or ""):
            process.stdout.write(text.encode())
        process.exit(0)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        backlog=4096,
        server_host_keys=[asyncssh.import_private_key(given["host"])],
        authorized_client_keys=asyncssh.import_authorized_keys(given["client"]),
        process_factory=answer,
        encoding=None,
        login_timeout=0,
    )
    print(server.get_port(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


class Lag:
    """The longest that the loop kept a timer waiting."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, time.perf_counter() - begin - 0.005)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measured(name: str, work: Sequence[Callable[[], Awaitable[object]]]) -> dict[str, Any]:
    """Do all of it at once."""
    lag = Lag()
    sampling = asyncio.create_task(lag.run())
    before, begin = cpu(), time.perf_counter()
    results = await asyncio.gather(*(one() for one in work), return_exceptions=True)
    wall, used = time.perf_counter() - begin, cpu() - before
    sampling.cancel()
    failed = [error for error in results if isinstance(error, BaseException)]
    for error in failed[:3]:
        print(f"{name}: {error}", file=sys.stderr)
    figures = {"cpu_ms": used / len(work) * 1000, "wall": wall, "lag_ms": lag.worst * 1000}
    return {"name": name, "operations": len(work), "failed": len(failed), **figures}


async def ramdisks(port: int, info: dict[str, Any], sessions: int) -> list[dict[str, Any]]:
    connections = Connections(Ssh(connect_timeout=120.0, keepalive=30.0))

    def node(number: int) -> Node:
        fresh = credentials.new_credentials("deploy")
        fresh |= {key: info[key] for key in info if "key" in key}
        made = Node(driver="ipmi", name=f"n{number}", driver_internal_info=fresh)
        ready: Node = made.changed(driver_internal_info={**fresh, "ramdisk": {"address": "127.0.0.1", "port": port, "boot": boot_id(made)}})
        return ready

    nodes = [node(number) for number in range(sessions)]

    async def one(node: Node, commands: int = 1) -> None:
        for _ in range(commands):
            await (await connections.to(node)).run("read", timeout=300.0)

    try:
        opened = await measured("session and command", [lambda node=node: one(node) for node in nodes])  # type: ignore[misc]
        kept = await measured("command, kept session", [lambda node=node: one(node, KEPT_ROUNDS) for node in nodes])  # type: ignore[misc]
        kept |= {"operations": sessions * KEPT_ROUNDS, "cpu_ms": kept["cpu_ms"] / KEPT_ROUNDS}
    finally:
        await connections.close_all()
    return [opened, kept]


async def machines(port: int, info: dict[str, Any], count: int) -> tuple[dict[str, Any], int]:
    hosts = Hosts(SshHost())
    given = {
        "ssh_address": "127.0.0.1",
        "ssh_port": port,
        "ssh_username": "root",
        "ssh_virt_type": "virsh",
        "ssh_key_contents": info["boot_client_private_key"],
        "ssh_host_key": info["boot_host_public_key"],
    }
    contexts = [Context(Node(driver="ssh", driver_info={**given, "ssh_machine": f"vm{number}"})) for number in range(count)]
    power = SshPower(hosts)
    name = "power of a host's machine"
    try:
        with background():
            figure = await measured(name, [lambda ctx=ctx: power.get_power_state(ctx) for ctx in contexts])  # type: ignore[misc]
        return figure, hosts.queries()
    finally:
        await hosts.close()


async def run(sessions: int, count: int) -> tuple[list[dict[str, Any]], int]:
    info = credentials.new_credentials("deploy")
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve", "--machines", str(count)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(json.dumps({"host": info["boot_host_private_key"], "client": info["boot_client_public_key"]}).encode() + b"\n")
        port = int(await server.stdout.readline())
        figures = await ramdisks(port, info, sessions)
        figure, commands = await machines(port, info, count)
        return [*figures, figure], commands
    finally:
        server.kill()
        await server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.machines))
        return 0
    figures, commands = asyncio.run(run(arguments.sessions, arguments.machines))
    print(f"{'':28}{'operations':>12}{'failed':>8}{'CPU ms/op':>11}{'ops/s':>9}{'worst lag ms':>14}")
    for one in figures:
        rate = one["operations"] / one["wall"]
        print(f"{one['name']:28}{one['operations']:12}{one['failed']:8}{one['cpu_ms']:11.3f}{rate:9.0f}{one['lag_ms']:14.1f}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory of this process: {memory} MiB; commands for the machines: {commands}")
    opened, kept, _ = figures
    bars = {
        f"a command on a kept session >= {KEPT_BAR:g} x cheaper than with a new one": opened["cpu_ms"] >= KEPT_BAR * kept["cpu_ms"],
        f"the loop's longest lag <= {LAG_BAR:g} x the CPU of one session": opened["lag_ms"] <= LAG_BAR * opened["cpu_ms"],
        "a round over the host's machines takes <= 2 commands": commands <= 2,
        "nothing failed": not any(one["failed"] for one in figures),
    }
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {bar}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
