"""One deployment by hand: ipmitool, ssh and the SSH ramdisk's own program, one command after the other, with no server in between.

What metald's deployment over SSH is measured against: the same ramdisk, the same image, the same disk, nothing to decide.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from lab.network import BridgedNetwork
from lab.prepare import Prepared
from lab.process import run
from lab.rack import Lab, LabMachine
from metald.boot import credentials
from metald.drivers.ssh.layout import DRIVE_SIZE
from metald.drivers.ssh.partitions import LINUX_DATA, Table, head_bytes
from metald.images.config_drive import make_iso

KERNEL = "nofb vga=normal console=ttyS0 no_timer_check"
"""Kernel parameters of every ramdisk; on a busy host the kernel mistakes QEMU's late timer for a broken one."""
_PORT = 6386
_SECTOR = 512
_CACHED = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes")


class Hand:
    """One pass.

    Args:
        lab: with one machine.
        made: ramdisk, image and key.
        drive: the config drive's files.
    """

    def __init__(self, lab: Lab, made: Prepared, drive: dict[str, object]) -> None:
        self._lab = lab
        self._machine: LabMachine = lab.machines[0]
        self._made = made
        self._drive = make_iso({"meta_data.json": json.dumps(drive).encode()})
        self._keys = credentials.new_credentials("deploy")
        self._ready = asyncio.Event()
        self._address = ""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """A web server with the files that the machine asks for, and dnsmasq told of the first of them."""
        assert isinstance(self._lab.network, BridgedNetwork)
        base = f"http://{self._lab.host}:{_PORT}"
        words = (
            f"console=ttyS0 no_timer_check metald.url={base} metald.node=n metald.token=t BOOTIF=01-{self._machine.mac.replace(':', '-')}"
        )
        script = f"#!ipxe\nkernel {base}/kernel initrd=initramfs {words}\ninitrd {base}/initramfs\nboot\n"
        host_key = credentials.dropbear_private_key(str(self._keys["boot_host_private_key"]))
        data = {
            "/boot.ipxe": script.encode(),
            "/boot/n/t/dropbear_host_key": host_key,
            "/boot/n/t/authorized_keys": f"{self._keys['boot_client_public_key']}\n".encode(),
            "/boot/n/t/configdrive": self._drive,
        }
        app = web.Application()

        def text(body: bytes) -> object:
            async def answer(_: web.Request) -> web.Response:
                return web.Response(body=body)

            return answer

        def file(path: Path) -> object:
            async def answer(_: web.Request) -> web.FileResponse:
                return web.FileResponse(path)

            return answer

        async def ready(request: web.Request) -> web.Response:
            self._address = str(request.remote)
            self._ready.set()
            return web.Response(status=204)

        for path, body in data.items():
            app.router.add_get(path, text(body))  # type: ignore[arg-type]
        for path, place in (
            ("/kernel", self._made.ramdisk / "kernel"),
            ("/initramfs", self._made.ramdisk / "initramfs"),
            ("/boot/n/t/image", self._made.image),
        ):
            app.router.add_get(path, file(place))  # type: ignore[arg-type]
        app.router.add_post("/boot/n/t/ready", ready)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self._lab.host, _PORT).start()
        (self._lab.network.optsdir / "by-hand").write_text(f"tag:ipxe,option:bootfile-name,{base}/boot.ipxe\n")
        try:
            yield
        finally:
            await runner.cleanup()

    async def deploy(self, directory: Path) -> float:
        """From the first command to the last, which starts the new system. Returns when it began (`time.monotonic()`)."""
        key = directory / "boot-key"
        key.write_text(str(self._keys["boot_client_private_key"]))
        key.chmod(0o600)
        began = time.monotonic()
        await self._ipmi("chassis", "bootdev", "pxe")
        await self._ipmi("chassis", "power", "on")
        await self._ready.wait()
        shared = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-S", str(directory / "session"))
        place = f"root@{self._address}"
        remote = ("ssh", *shared, "-i", str(key), *_CACHED, place, "metald-ramdisk")
        size = self._made.image.stat().st_size
        await run(*remote, f"image --job i --disk vda --name image --size {size} --sha512 {self._made.sha512}", deadline=300)
        await self._write_drive(remote)
        await run(*remote, "flush vda", deadline=60)
        await run("ssh", *shared, "-O", "exit", place, deadline=10)
        await self._ipmi("chassis", "bootdev", "disk")
        await self._ipmi("chassis", "power", "cycle")
        return began

    async def _write_drive(self, remote: tuple[str, ...]) -> None:
        """A partition at the disk's end, and the drive into it."""
        disk = self._machine.disk.stat().st_size
        head = await run(*remote, f"read vda 0:{head_bytes(_SECTOR)} | base64", deadline=60)
        table = Table.parse(base64.b64decode(head), disk // _SECTOR, sector=_SECTOR)
        assert table is not None
        table, place = table.append(LINUX_DATA, uuid.uuid4(), DRIVE_SIZE, "config-2")
        changes = table.render()
        ranges = " ".join(f"{offset}:{len(data)}" for offset, data in changes)
        packed = base64.b64encode(b"".join(data for _, data in changes)).decode()
        await run(*remote[:-1], f"base64 -d | metald-ramdisk patch vda {ranges}", stdin=packed, deadline=60)
        digest = hashlib.sha512(self._drive).hexdigest()
        offset = place.first * _SECTOR
        command = f"image --job c --disk vda --name configdrive --size {len(self._drive)} --sha512 {digest} --offset {offset}"
        await run(*remote, command, deadline=60)

    async def _ipmi(self, *words: str) -> None:
        bmc = self._machine.bmc
        where = ("-H", bmc.address, "-p", str(bmc.port), "-U", bmc.user, "-P", bmc.password)
        await run("ipmitool", "-I", "lanplus", "-C", "3", *where, *words, deadline=30)
