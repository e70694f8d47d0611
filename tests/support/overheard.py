"""A private wire on which one end listens with a packet socket and the other speaks: DHCP, and noise around it.

Run as the only process of a new network namespace; prints what was told, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess

from metald.boot.dhcp import packet
from metald.boot.dhcp.overhear import Overhearing
from metald.boot.dhcp.packet import Kind, Option, Packet
from metald.boot.files import BootFiles
from metald.config import Dhcp, Settings
from tests.support.boot_fleet import MAC, Fleet


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


async def main() -> None:
    for command in (
        "ip link set lo up",
        "ip link add here type veth peer name there",
        "ip addr add 10.9.0.2/24 dev there",
        "ip link set here up",
        "ip link set there up",
    ):
        run(command)
    fleet = Fleet()
    settings = Settings(dhcp=Dhcp(watch=["here"]))
    ear = Overhearing(fleet, BootFiles(fleet, settings), settings)
    await ear.start()
    options = {Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", Option.ARCHITECTURE: b"\0\0"}
    asked = packet.encode(Packet(packet.REQUEST, 7, bytes.fromhex(MAC.replace(":", "")), Kind.DISCOVER, options))
    other = asked.replace(bytes.fromhex(MAC.replace(":", "")), b"\2\2\2\2\2\2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"there")
        for port in (66, 69, 4012, 6700):  # what the filter must not let through
            sock.sendto(other, ("255.255.255.255", port))
        sock.sendto(asked, ("255.255.255.255", 67))
    async with asyncio.timeout(30):
        while not fleet.events:
            fleet.told.clear()
            await fleet.told.wait()
    ear.close()
    print(json.dumps([data for _, _, data in fleet.events]))


asyncio.run(main())
