"""A private wire with metald's own DHCP server on one end, and clients on the other.

Run as the only process of a new network namespace: `unshare -n python -m tests.support.dhcp_wire DIR MODE COMMAND...`. MODE is
`proxy` or `lease`; COMMAND runs on the wire, whose client end is the interface `client`, and `tap0` is a tap on the
same bridge. What the server told is printed as one line of JSON, after what the command printed; what it was asked is in
DIR/requests, a line of hexadecimal each.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from metald.boot.dhcp.own import DhcpServer
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.boot.tftp.server import TftpServer
from metald.config import Boot, Dhcp, Settings
from tests.support.boot_fleet import MAC, Fleet


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def wire() -> None:
    """A bridge with the server's address, and two ways onto it."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "server", "type", "bridge")
    run("ip", "link", "add", "port", "type", "veth", "peer", "name", "client")
    run("ip", "tuntap", "add", "tap0", "mode", "tap")
    for port in ("port", "tap0"):
        run("ip", "link", "set", port, "master", "server")
    run("ip", "link", "set", "client", "address", MAC)
    run("ip", "addr", "add", "10.9.0.1/24", "dev", "server")
    for name in ("server", "port", "client", "tap0"):
        run("ip", "link", "set", name, "up")
    for name in ("all", "client"):
        for key, value in (("accept_local", "1"), ("rp_filter", "0")):
            Path(f"/proc/sys/net/ipv4/conf/{name}/{key}").write_text(value)


async def main(folder: str, mode: str, command: list[str]) -> int:
    wire()
    fleet = Fleet()
    node = fleet.boot(fleet.add(MAC))
    boot = Boot(tftp_listen="10.9.0.1:69", http_listen="10.9.0.1:6386", ipxe_dir=os.environ.get("IPXE_DIR", "/usr/lib/ipxe"))
    ranges = {"ranges": ["10.9.0.50-10.9.0.60/24 via 10.9.0.1"]} if mode == "lease" else {}
    dhcp = Dhcp(provider=mode, interfaces=["server"], dns=["10.9.0.1"], **ranges)  # type: ignore[arg-type]
    settings = Settings(state_dir=folder, boot=boot, dhcp=dhcp)
    files = BootFiles(fleet, settings)
    servers = (DhcpServer(fleet, files, settings), TftpServer(fleet, files, settings), BootHttp(fleet, files, settings))
    for server in servers:
        await server.start()
    arrived = servers[0]._arrived
    with open(f"{folder}/requests", "w", buffering=1) as file:
        servers[0]._arrived = lambda sock, arrival, port: (file.write(f"{port} {arrival.data.hex()}\n"), arrived(sock, arrival, port))  # type: ignore[method-assign,assignment,return-value]
        code = await _command(command)
    for server in servers:
        await server.close()
    print(json.dumps([(kind, seen == node.uuid, data) for kind, seen, data in fleet.events]), flush=True)
    return code


async def _command(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(float(os.environ.get("WIRE_TIMEOUT", "30"))):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:])))
