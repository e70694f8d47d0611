"""TFTP servers beside each other: CPU seconds of the server per MiB served, in one run on one machine.

    python benchmarks/tftp.py [--clients 200] [--seconds 5] [--windows 1,4,16] [--peers DIR]

metald is compared with dnsmasq, and with tftpd-hpa and atftpd, which are fetched from Debian and unpacked below DIR
(build/tftp-peers): installed they would serve. Every client fetches a file of 1 MiB again and again with a block size of
1468. Rates on a busy machine are noise; CPU per MiB and the ratios are the result. On loopback the sender's CPU holds the
receiver's softirq, for all alike. Needs root, for control groups and for a network namespace of its own, since dnsmasq
serves TFTP at port 69 only.

At the end 1,000 clients ask metald at once; none may be left without the file. Exits 1 when that or a ratio of BARS is
missed, or a peer could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent.parent / "build/tftp-peers"
PROGRAMS = {"tftpd-hpa": "usr/sbin/in.tftpd", "atftpd": "usr/sbin/atftpd"}
SIZE = 1 << 20
NAME = "mib.efi"
GRACE = 120
"""Seconds that clients have to end what they began."""
MANY = 1000
BARS = {
    ("dnsmasq", 1, 1): 0.7,
    ("tftpd-hpa", 1, 1): 1.5,
    ("dnsmasq", 4, 1): 1.6,
    ("atftpd", 4, 4): 2.0,
    ("dnsmasq", 16, 1): 3.5,
    ("atftpd", 16, 16): 3.5,
}
"""How many times the CPU of metald another server takes at least: its name, metald's window, its own."""


class Nobody:
    """A BootDirectory without nodes."""

    def node_by_mac(self, _mac: str) -> None:
        return None

    def node(self, _uuid: str) -> None:
        return None

    def ports(self, _node_uuid: str) -> list[Any]:
        return []

    def seen(self, kind: str, *, node_uuid: str | None, data: Mapping[str, Any]) -> None:
        pass


async def metald(folder: str, port: int) -> None:
    """The server under test, in this process."""
    from metald.boot.files import BootFiles
    from metald.boot.tftp.server import TftpServer
    from metald.config import Boot, Settings

    settings = Settings(boot=Boot(tftp_listen=f"127.0.0.1:{port}", ipxe_dir=folder, tftp_transfers_per_client=5000))
    directory: Any = Nobody()
    server = TftpServer(directory, BootFiles(directory, settings), settings)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.close()


def load(program: str, port: int, window: int, clients: int, seconds: float) -> tuple[int, int, int, float]:
    """Files fetched, datagrams sent again, clients that were lost, and seconds taken; see parts/tftp_load.c."""
    given = (port, window, clients, seconds, GRACE)
    files, resent, lost, took = subprocess.run([program, *map(str, given)], check=True, capture_output=True, text=True).stdout.split()
    return int(files), int(resent), int(lost), float(took)


class Group:
    """A control group of its own for one server: its CPU is that of all processes it forks, ended ones too."""

    def __init__(self) -> None:
        old = Path("/sys/fs/cgroup/cpuacct")
        self.path = (old if old.is_dir() else Path("/sys/fs/cgroup")) / f"metald-bench-{os.getpid()}"
        self.path.mkdir(exist_ok=True)

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def cpu(self) -> float:
        usage = self.path / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        return int((self.path / "cpu.stat").read_text().split()[1]) / 1e6

    def close(self) -> None:
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def fetch(peers: Path) -> None:
    """Unpack the packages of servers, each by itself; none of them is installed or started."""
    for package, program in PROGRAMS.items():
        place = peers / package
        if (place / program).exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", package], cwd=place, check=True, stderr=subprocess.DEVNULL)
        (archive,) = place.glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, place], check=True)
        archive.unlink()


def servers(folder: str, peers: Path) -> dict[str, tuple[list[str], bool]]:
    """Each server's command line with PORT in it, and whether it knows windowsize."""
    found: dict[str, tuple[list[str], bool]] = {"metald": ([sys.executable, __file__, "--serve", folder, "PORT"], True)}
    if program := shutil.which("dnsmasq"):
        quiet = ["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-facility=/dev/null"]
        tftp = ["--enable-tftp", f"--tftp-root={folder}", "--tftp-max=2000", "--tftp-port-range=20000,40000", "--interface=lo"]
        # dnsmasq has no option for the port of its TFTP server.
        found["dnsmasq"] = ([program, *quiet, *tftp], False)
    hpa, atftpd = (str(peers / package / program) for package, program in PROGRAMS.items())
    found["tftpd-hpa"] = ([hpa, "-L", "-a", "127.0.0.1:PORT", "-s", folder, "-u", "root"], False)
    many = ["--daemon", "--no-fork", "--maxthread", "2000", "--user", "root"]
    found["atftpd"] = ([atftpd, *many, "--port", "PORT", "--bind-address", "127.0.0.1", folder], True)
    return found


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(program: str, argv: list[str], window: int, clients: int, seconds: float) -> dict[str, float]:
    port = free_port() if "PORT" in " ".join(argv) else 69
    group = Group()
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    filled = [arg.replace("PORT", str(port)) for arg in argv]
    server = subprocess.Popen(filled, stderr=subprocess.DEVNULL, env=environment, preexec_fn=group.enter)
    try:
        for _ in range(100):
            time.sleep(0.1)
            with Path("/proc/net/udp").open() as table:
                if any(line.split()[1].endswith(f":{port:04X}") for line in table.readlines()[1:]):
                    break
        else:
            raise SystemExit(f"{argv[0]} does not listen")
        load(program, port, window, 1, 0.1)
        before = group.cpu()
        files, resent, lost, took = load(program, port, window, clients, seconds)
        used = group.cpu() - before
    finally:
        server.terminate()
        server.wait()
        group.close()
    if not files:
        raise SystemExit(f"{argv[0]} served nothing")
    mib = files * SIZE / (1 << 20)
    return {"files": files, "resent": resent, "lost": lost, "ms_per_mib": 1000 * used / mib, "mib_per_s": mib / took}


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--windows", default="1,4,16")
    parser.add_argument("--peers", type=Path, default=PEERS, metavar="DIR")
    parser.add_argument("--many", type=int, default=MANY, metavar="N", help="clients at once at the end; 0: leave it out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def go_inside() -> None:
    """Begin again in a network namespace; tftpd-hpa takes no address on a host that has none but loopback ones."""
    prepare = 'ip link set lo up && ip addr add 192.0.2.1/32 dev lo && exec "$@"'
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", prepare, "sh", sys.executable, __file__, "--inside", *sys.argv[1:]])


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(metald(sys.argv[2], int(sys.argv[3])))
        return
    given = arguments()
    if not given.inside:
        fetch(given.peers)
        go_inside()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = str(Path(folder, "tftp_load"))
        subprocess.run(["cc", "-O2", "-o", program, Path(__file__).parent / "parts/tftp_load.c"], check=True)
        Path(folder, NAME).write_bytes(os.urandom(SIZE))
        for name, (argv, windows) in servers(folder, given.peers).items():
            for window in map(int, given.windows.split(",")):
                if window > 1 and not windows:
                    continue
                found = results[f"{name} w{window}"] = measure(program, argv, window, given.clients, given.seconds)
                print(f"{name:10} window {window:2}: " + "  ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)
        if given.many:
            argv, _ = servers(folder, given.peers)["metald"]
            found = results["metald many"] = measure(program, argv, 4, given.many, 0.1)
            print(
                f"metald     {given.many} clients at once: " + "  ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    sys.exit(0 if judged(results, given.many) else 1)


def judged(results: Mapping[str, Mapping[str, float]], many: int) -> bool:
    """Whether every bar is met of the windows that were measured."""
    good = True
    for (name, window, theirs), bar in BARS.items():
        ours, other = results.get(f"metald w{window}"), results.get(f"{name} w{theirs}")
        if ours and not other:
            good = False
            print(f"MISSED {name} was not measured")
        if ours and other:
            ratio = other["ms_per_mib"] / ours["ms_per_mib"]
            good &= ratio >= bar
            said = "met   " if ratio >= bar else "MISSED"
            print(f"{said} metald at window {window}: {ratio:.2f} times {name} at window {theirs} per CPU (bar {bar})")
    if many:
        left = int(results["metald many"]["lost"])
        good &= left == 0
        print(f"{'met   ' if left == 0 else 'MISSED'} {many} clients at once: {left} left without the file")
    return good


main()
