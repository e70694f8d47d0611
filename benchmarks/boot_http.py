"""The boot HTTP server beside nginx: CPU seconds for each GB of a file in the page cache, in one run on one machine.

    python benchmarks/boot_http.py [--clients 200] [--rounds 3] [--nginx PROGRAM]

Every client fetches a file of 32 MiB once per round, over plain HTTP from metald and from nginx (one worker, sendfile) by
turns, then over TLS from metald. The clients are one `curl --parallel`. The CPU is that of the server's process alone; on
loopback that holds the receiver's share of the kernel's work, for both alike. Exits 1 when a bar is missed; without
nginx its bar is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE = 32 << 20
PLAIN_BAR = 0.65
"""metald's bytes for each CPU second as a share of nginx's."""
TLS_BAR = 0.4
"""GB for each CPU second."""


async def metald(folder: str, port: int, tls: bool) -> None:
    """The server under test, in this process."""
    from metald.boot.files import BootFiles
    from metald.boot.http import BootHttp
    from metald.config import Boot, Settings
    from tests.support.boot_fleet import Fleet

    keys: dict[str, Any] = {"http_tls_certificate": f"{folder}/cert.pem", "http_tls_key": f"{folder}/key.pem"} if tls else {}
    settings = Settings(state_dir=folder, boot=Boot(http_listen=f"127.0.0.1:{port}", ipxe_dir=folder, **keys))
    fleet: Any = Fleet()
    server = BootHttp(fleet, BootFiles(fleet, settings), settings)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu(pid: int) -> float:
    """Seconds of a process, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """A running server."""

    def __init__(self, name: str, argv: list[str], url: str, port: int) -> None:
        self.name, self.url = name, url
        self.used = self.bytes = 0.0
        self.process = subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": os.getcwd()})
        for _ in range(300):
            time.sleep(0.1)
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
        raise SystemExit(f"{name} does not listen")

    def round(self, clients: int) -> None:
        """Every client fetches the file."""
        config = "".join(f'url = "{self.url}"\noutput = "/dev/null"\n' for _ in range(clients))
        argv = ["curl", "--fail", "--silent", "--insecure", "--no-progress-meter", "--parallel", "--parallel-immediate"]
        before = cpu(self.process.pid)
        subprocess.run([*argv, "--parallel-max", str(clients), "--config", "-"], input=config.encode(), check=True)
        self.used += cpu(self.process.pid) - before
        self.bytes += clients * SIZE

    @property
    def rate(self) -> float:
        """GB for each CPU second."""
        return self.bytes / 1e9 / self.used

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def nginx(program: str, folder: str, port: int) -> Server:
    """nginx as one process that serves the folder."""
    text = f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit; events {{ worker_connections 2048; }}
    http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"""
    Path(folder, "nginx.conf").write_text(text)
    return Server("nginx", [program, "-e", "stderr", "-p", folder, "-c", f"{folder}/nginx.conf"], f"http://127.0.0.1:{port}/big.efi", port)


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(metald(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "tls"))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nginx", default=shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "")
    given = parser.parse_args()
    sys.path.insert(0, os.getcwd())
    from tests.support.tls import authority

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "big.efi").write_bytes(os.urandom(SIZE))
        authority(Path(folder), "localhost")
        servers = []
        try:
            for name, scheme in (("plain", "http"), ("tls", "https")):
                port = free_port()
                argv = [sys.executable, __file__, "--serve", folder, str(port), name]
                servers.append(Server(name, argv, f"{scheme}://127.0.0.1:{port}/ipxe/big.efi", port))
            if given.nginx:
                servers.append(nginx(given.nginx, folder, free_port()))
            for _ in range(given.rounds):
                for server in servers:
                    server.round(given.clients if server.name != "tls" else max(1, given.clients // 8))
            rates = {server.name: server.rate for server in servers}
        finally:
            for server in servers:
                server.close()
    for name, rate in rates.items():
        print(f"{name:6} {rate:6.2f} GB for each CPU second")
    bars = {f"TLS: at least {TLS_BAR} GB for each CPU second": rates["tls"] >= TLS_BAR}
    if "nginx" in rates:
        share = rates["plain"] / rates["nginx"]
        bars[f"plain: {share:.2f} of nginx, at least {PLAIN_BAR}"] = share >= PLAIN_BAR
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {bar}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
