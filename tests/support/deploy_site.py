"""One simulated machine, the real boot HTTP server, image cache and deploy interface; the test calls the steps itself."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from metald.boot import credentials
from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.config import Images
from metald.drivers.base import Management
from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh.partitions import BIOS_BOOT, ESP, Partition, Table
from metald.images.cache import ImageCache
from metald.model import BootDevice, Event, Node, Port
from metald.model.boot import boot_id
from metald.sim.chassis import SimBmc
from metald.sim.machine import SimMachine
from tests.support import events
from tests.support.boot_fleet import MAC, Fleet, boot_settings

PXE = b"\x80\x04\x00\x00\x00"
MIB = 1 << 20


def gpt_image(path: Path, size: int = 4 * MIB, *, boot_code: bool = True) -> Path:
    """A raw image with a GUID partition table: a BIOS boot partition and an EFI system partition of random bytes."""
    table = Table.create(size // 512, uuid.UUID(int=1))
    table = table.with_partition(Partition(1, BIOS_BOOT, uuid.UUID(int=2), 64, 127, "bios"))
    table = table.with_partition(Partition(2, ESP, uuid.UUID(int=3), 128, size // 512 - 64, "esp"))
    data = bytearray(os.urandom(size))
    data[512 : 34 * 512] = bytes(33 * 512)
    for offset, piece in table.render():
        data[offset : offset + len(piece)] = piece
    data[:440] = b"\xeb\x63" + bytes(438) if boot_code else bytes(440)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


class SeenManagement(Management):
    """Remembers which boot devices were asked for."""

    name = "seen"

    def __init__(self) -> None:
        self.devices: list[tuple[BootDevice, bool]] = []

    def supported_boot_devices(self, ctx: Any) -> Sequence[BootDevice]:
        return tuple(BootDevice)

    async def get_boot_device(self, ctx: Any) -> tuple[BootDevice | None, bool | None]:
        return self.devices[-1] if self.devices else (None, None)

    async def set_boot_device(self, ctx: Any, device: BootDevice, *, persistent: bool = False) -> None:
        self.devices.append((device, persistent))


class Steps:
    """A StepContext over a node of the fleet."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.memo: dict[str, Any] = {}
        self.shown: list[dict[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.checkpoints = 0
        self.management = site.management

    @property
    def node(self) -> Node:
        return self._site.fleet.nodes[self._site.uuid]

    @property
    def ports(self) -> Sequence[Port]:
        return self._site.fleet.ports(self._site.uuid)

    def set(self, **fields: Any) -> None:
        self._site.fleet.change(self.node, **fields)

    async def checkpoint(self) -> None:
        self.checkpoints += 1
        # what is durable can be written as JSON
        assert msgspec.json.decode(msgspec.json.encode(self.memo)) == self.memo

    def progress(self, **fields: Any) -> None:
        self.shown.append(fields)

    def note(self, kind: str, **data: Any) -> None:
        events.told(Event(type=f"node.{kind}", node_uuid=self._site.uuid, data=data))
        self.notes.append((kind, data))


class CallingFleet(Fleet):
    """Notes in the node what its ramdisk says, as the daemon does."""

    async def ramdisk_called(self, node_uuid: str, facts: Any) -> None:
        await super().ramdisk_called(node_uuid, facts)
        node = self.nodes[node_uuid]
        self.change(node, driver_internal_info={**node.driver_internal_info, "ramdisk": {**facts, "boot": boot_id(node)}})


class Site:
    """See the module."""

    def __init__(self, folder: Path, program: Path, disk_size: int) -> None:
        self.folder = folder
        self.fleet = CallingFleet()
        self.settings = msgspec.structs.replace(
            boot_settings(folder), images=Images(file_roots=[str(folder / "files")], download_timeout=5.0)
        )
        drivers = self.settings.drivers
        ssh = msgspec.structs.replace(drivers.ssh, minimum_disk=1, connect_timeout=5.0)
        self.settings = msgspec.structs.replace(self.settings, drivers=msgspec.structs.replace(drivers, ssh=ssh))
        self.images = ImageCache(self.settings.images, folder)
        self.deploy = SshDeploy(self.settings, self.images)
        self.management = SeenManagement()
        self.image = gpt_image(folder / "files" / "image.raw")
        info = {"image_source": self.image.as_uri(), "image_checksum": hashlib.sha256(self.image.read_bytes()).hexdigest()}
        self.uuid = self.fleet.add(MAC, name="n1", instance_info=info).uuid
        self.bmc = SimBmc()
        self.boot_http = self._server()
        self._program = program
        self._disk_size = disk_size

    def _server(self) -> BootHttp:
        return BootHttp(self.fleet, BootFiles(self.fleet, self.settings, self.images.image_for), self.settings)

    async def restart_boot_http(self) -> None:
        """The boot server comes back at its address, as after a restart of the daemon."""
        port = self.boot_http.addresses[0][1]
        await self.boot_http.close()
        boot = msgspec.structs.replace(self.settings.boot, http_listen=f"127.0.0.1:{port}")
        self.settings = msgspec.structs.replace(self.settings, boot=boot)
        self.boot_http = self._server()
        await self.boot_http.start()

    def instance(self, **info: Any) -> None:
        """Change the node's instance_info."""
        node = self.fleet.nodes[self.uuid]
        self.fleet.change(node, instance_info={**node.instance_info, **info})

    def steps(self) -> Steps:
        return Steps(self)

    async def boot(self) -> None:
        """Boot the ramdisk with new credentials and wait until it has called."""
        node = self.fleet.nodes[self.uuid]
        self.fleet.taken.pop(self.uuid, None)
        info = {**node.driver_internal_info, **credentials.new_credentials("deploy")}
        self.fleet.change(node, driver_internal_info=info)
        calls = self.machine.counters.ready_calls
        self.bmc.boot_options[5] = PXE
        self.bmc.set_power(False)
        self.bmc.set_power(True)
        await self.machine.until(lambda m: m.counters.ready_calls > calls)

    @property
    def disk(self) -> Path:
        return self.machine.disk

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        await self.boot_http.start()
        url = f"http://127.0.0.1:{self.boot_http.addresses[0][1]}"
        machine = SimMachine(
            self.folder / "machine", self.bmc, boot_url=url, program=self._program, macs=(MAC,), disk_size=self._disk_size, pace=0.01
        )
        try:
            async with machine as self.machine:
                yield self
                await self.deploy.close()
        finally:
            await self.boot_http.close()
