"""A daemon and simulated machines around it: everything between the API and the disk is real but the silicon."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metald.sim.bmc import Fleet
from metald.sim.chassis import SimBmc
from metald.sim.machine import SimMachine
from tests.support.daemon import Api, Daemon, free_port

MIB = 1 << 20


@dataclass(frozen=True)
class Image:
    """A raw whole-disk image: random bytes with a boot sector's signature."""

    path: Path
    size: int
    sha256: str

    def info(self, **more: Any) -> dict[str, Any]:
        """The instance_info that deploys it."""
        return {
            "image_source": self.path.as_uri(),
            "image_os_hash_algo": "sha256",
            "image_os_hash_value": self.sha256,
            "image_disk_format": "raw",
            **more,
        }

    def is_on(self, disk: Path) -> bool:
        """Whether the disk begins with this image."""
        digest, left = hashlib.sha256(), self.size
        with disk.open("rb") as file:
            while left and (data := file.read(min(left, MIB))):
                digest.update(data)
                left -= len(data)
        return digest.hexdigest() == self.sha256


@dataclass
class Box:
    """A machine, its BMC on the network, and what the daemon knows it as."""

    machine: SimMachine
    bmc: SimBmc
    net: Fleet
    node: str = ""

    def driver_info(self, **more: Any) -> dict[str, Any]:
        """What leads to the BMC."""
        return {"ipmi_address": "127.0.0.1", "ipmi_port": self.net.port, "ipmi_username": "admin", "ipmi_password": "secret", **more}


QUICK: Mapping[str, object] = {
    "conductor.retry_delay": 0.05,
    "conductor.automated_clean": "false",
    "drivers.ipmi.power_poll": 0.02,
    "drivers.ipmi.power_timeout": 5,
    "drivers.ssh.minimum_disk": MIB,
}
"""Settings that make a daemon wait as briefly as simulated hardware allows."""


class Lab:
    """Files, daemon and machines below one folder. Use `lab`.

    Args:
        folder: where everything lies.
        program: the compiled ramdisk program.
        daemon: to drive; not started.
    """

    def __init__(self, folder: Path, program: Path, daemon: Daemon, stack: contextlib.AsyncExitStack) -> None:
        self.folder = folder
        self.daemon = daemon
        self._program = program
        self._stack = stack
        self._count = 0

    async def machine(self, *, disk_size: int = 32 * MIB, bmc_port: int = 0, **bmc: Any) -> Box:
        """A machine that is off; `bmc` as for `SimBmc`."""
        self._count += 1
        sim = SimBmc(**bmc)
        # A BMC keeps its port when the daemon restarts, so it must not be one that the kernel hands out to others.
        net = await self._stack.enter_async_context(Fleet([sim], port=bmc_port or free_port(socket.SOCK_DGRAM)))
        machine = SimMachine(
            self.folder / f"machine{self._count}",
            sim,
            boot_url=self.daemon.boot_url,
            program=self._program,
            macs=(f"52:54:00:00:00:{self._count:02x}",),
            disk_size=disk_size,
        )
        await self._stack.enter_async_context(machine)
        return Box(machine, sim, net)

    def image(self, size: int = 2 * MIB, name: str = "image.raw", *, seed: int = 1) -> Image:
        """An image below the daemon's file root."""
        path = self.folder / "files" / name
        path.parent.mkdir(exist_ok=True)
        data = random.Random(seed).randbytes(size)
        data = data[:510] + b"\x55\xaa" + data[512:]
        path.write_bytes(data)
        return Image(path, size, hashlib.sha256(data).hexdigest())

    async def enrol(self, client: Api, box: Box, *, until: str = "available", **fields: Any) -> str:
        """Make the machine known, and bring it to a state."""
        node = {"driver": "ipmi", "deploy_interface": "ssh", "boot_interface": "ipxe", "driver_info": box.driver_info(), **fields}
        box.node = await client.create(**node)
        await client.port(box.node, box.machine.macs[0])
        for verb, state in (("manage", "manageable"), ("provide", "available")):
            if until == "enroll":
                break
            await client.provision(box.node, verb)
            await client.wait(box.node, state)
            if until == state:
                break
        return box.node

    async def deploy(self, client: Api, box: Box, image: Image, **info: Any) -> None:
        """Ask for a deployment."""
        await client.patch(box.node, instance_info=image.info(**info))
        await client.provision(box.node, "active")


@contextlib.asynccontextmanager
async def lab(folder: Path, program: Path, settings: Mapping[str, object] | None = None) -> AsyncIterator[Lab]:
    """A lab whose daemon is not started yet. At the end everything stops, and no daemon may have met a defect."""
    ramdisk = folder / "ramdisk"
    ramdisk.mkdir(parents=True, exist_ok=True)
    for name in ("kernel", "initramfs"):
        (ramdisk / name).write_bytes(name.encode() * 1000)
    (folder / "files").mkdir(exist_ok=True)
    more = {"boot.ramdisk_dir": ramdisk, "images.file_roots": folder / "files", **QUICK, **(settings or {})}
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(Daemon(folder, more))
        made = Lab(folder, program, daemon, stack)
        yield made
    daemon.assert_clean()
