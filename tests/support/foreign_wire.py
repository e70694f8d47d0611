"""A private wire with somebody else's DHCP server, a real dnsmasq that knows nothing of metald but one boot file for each kind of firmware.

Run as the only process of a new network namespace: `unshare -n python -m tests.support.foreign_wire DIR`. metald's own boot servers
answer beside it, and a pretended machine boots on the other end: it asks for an address as PXE firmware and as iPXE, loads what it is
told by TFTP, and follows the scripts to the kernel. Prints as JSON what the machine got and what the doctor saw.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from metald.boot.dhcp import packet
from metald.boot.dhcp.overhear import Overhearing
from metald.boot.dhcp.packet import Kind, Option, Packet
from metald.boot.doctor import Attempt
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.boot.tftp.server import TftpServer
from metald.config import Boot, Dhcp, Settings
from metald.model import Event
from metald.sim.ipxe import Ipxe, Kernel
from metald.sim.tftp import fetch
from tests.support.boot_fleet import MAC, Fleet

HTTP = "http://10.9.0.1:6386"
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", Option.ARCHITECTURE: b"\0\0", Option.MACHINE: bytes(1) + bytes(range(16))}
IPXE = {**PXE, Option.USER_CLASS: b"iPXE", Option.IPXE: b"\xb1\1\1"}
ASKED = bytes((Option.NETMASK, Option.ROUTER, Option.TFTP_SERVER, Option.BOOT_FILE))


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def wire() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "server", "type", "veth", "peer", "name", "client")
    run("ip", "link", "set", "client", "address", MAC)
    run("ip", "addr", "add", "10.9.0.1/24", "dev", "server")
    for name in ("server", "client"):
        run("ip", "link", "set", name, "up")
    for name in ("all", "client", "server"):
        for key, value in (("accept_local", "1"), ("rp_filter", "0")):
            Path(f"/proc/sys/net/ipv4/conf/{name}/{key}").write_text(value)


async def dnsmasq(folder: str) -> asyncio.subprocess.Process:
    argv = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=server", "--bind-interfaces", "--no-ping"]
    argv += ["--dhcp-range=10.9.0.50,10.9.0.99,255.255.255.0,1h", "--dhcp-broadcast", f"--dhcp-leasefile={folder}/leases", "--user=root"]
    argv += ["--dhcp-match=set:ipxe,175", f"--dhcp-boot=tag:ipxe,{HTTP}/boot.ipxe", "--dhcp-boot=tag:!ipxe,undionly.kpxe,,10.9.0.1"]
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"sockets bound" not in (line := await process.stderr.readline()):
            assert line, "dnsmasq ended"
    return process


async def lease(options: dict[int, bytes]) -> Packet:
    """Ask for an address and take it."""
    loop = asyncio.get_running_loop()
    hardware, transaction = bytes.fromhex(MAC.replace(":", "")), random.getrandbits(32)
    wanted = {**options, Option.PARAMETERS: ASKED}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"client")
        sock.bind(("0.0.0.0", 68))
        sock.setblocking(False)

        async def ask(kind: Kind, more: dict[int, bytes]) -> Packet:
            question = Packet(packet.REQUEST, transaction, hardware, kind, {**wanted, **more}, flags=packet.BROADCAST_FLAG)
            sock.sendto(packet.encode(question), ("255.255.255.255", 67))
            async with asyncio.timeout(30):
                while True:
                    found = packet.parse(await loop.sock_recv(sock, 4096))
                    if found.op == packet.REPLY and found.transaction == transaction:
                        return found

        offer = await ask(Kind.DISCOVER, {})
        return await ask(Kind.REQUEST, {Option.ADDRESS: offer.yours.packed, Option.SERVER: offer.options[Option.SERVER]})


async def boot(fleet: Fleet) -> dict[str, Any]:
    """What the machine does."""
    first = await lease(PXE)
    name = (first.file or first.options[Option.BOOT_FILE].rstrip(b"\0")).decode()
    run("ip", "addr", "add", f"{first.yours}/24", "dev", "client")
    loader = await fetch((str(first.server), 69), name, source=str(first.yours), blksize=1468)
    second = await lease(IPXE)
    script = (second.file or second.options[Option.BOOT_FILE].rstrip(b"\0")).decode()
    connector = aiohttp.TCPConnector(local_addr=(str(second.yours), 0))
    async with aiohttp.ClientSession(connector=connector) as web:

        async def load(url: str) -> bytes:
            async with web.get(url) as answer:
                answer.raise_for_status()
                return await answer.read()

        end = await Ipxe((MAC,), load, asyncio.sleep).run(script)
    assert isinstance(end, Kernel), end
    return {"address": str(first.yours), "file": name, "loader": len(loader.data), "script": script, "line": end.command_line}


async def main(folder: str) -> None:
    wire()
    fleet = Fleet()
    node = fleet.boot(fleet.add(MAC))
    for name in ("ramdisk/kernel", "ramdisk/initramfs", "ipxe/undionly.kpxe"):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    servers = Boot(tftp_listen="10.9.0.1:69", http_listen="10.9.0.1:6386", ipxe_dir=f"{folder}/ipxe")
    settings = Settings(state_dir=folder, boot=servers, dhcp=Dhcp(provider="none", watch=["server"]))
    files = BootFiles(fleet, settings)
    ear, tftp, http = Overhearing(fleet, files, settings), TftpServer(fleet, files, settings), BootHttp(fleet, files, settings)
    other = await dnsmasq(folder)
    for server in (ear, tftp, http):
        await server.start()
    try:
        got = await boot(fleet)
    finally:
        ear.close()
        await tftp.close()
        await http.close()
        other.terminate()
        await other.wait()
    attempt = Attempt(Event(type="x").time)
    for kind, uuid, data in fleet.events:
        assert uuid == node.uuid, (kind, data)
        attempt.take(Event(type=kind, node_uuid=uuid, data=data))
    got["dhcp"] = [[each.firmware, each.asked, each.answer, each.server, each.file] for each in attempt.questions]
    got["files"] = [[each.by, each.file, asdict(each)["error"]] for each in attempt.files]
    print(json.dumps(got))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
