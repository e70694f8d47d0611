"""The simulated machine against the real boot HTTP server: it boots, obeys, writes, and stops dead."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from metald.boot.files import BootFiles
from metald.boot.http import BootHttp
from metald.model import Node
from metald.sim.chassis import SimBmc
from metald.sim.machine import SimMachine
from tests.support.boot_fleet import MAC, Fleet, boot_settings

PXE = b"\x80\x04\x00\x00\x00"
DISK = b"\x80\x08\x00\x00\x00"


class Site:
    """A boot server, one node, its machine."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.fleet = Fleet()
        settings = boot_settings(folder)
        for name in ("kernel", "initramfs"):
            path = Path(settings.boot.ramdisk_dir or Path(settings.state_dir) / "ramdisk") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode() * 100)
        self.image = folder / "image"
        self.image.write_bytes(os.urandom(510) + b"\x55\xaa" + os.urandom((3 << 20) + 777))
        self.server = BootHttp(self.fleet, BootFiles(self.fleet, settings, lambda _node, _what: self.image), settings)
        self.bmc = SimBmc()
        self.folder = folder
        self.program = program
        self.node: Node = self.fleet.add(MAC)

    def machine(self) -> SimMachine:
        url = f"http://127.0.0.1:{self.server.addresses[0][1]}"
        return SimMachine(self.folder / "machine", self.bmc, boot_url=url, program=self.program, macs=(MAC,), pace=0.01)

    def boot(self, flags: bytes = PXE) -> None:
        self.bmc.boot_options[5] = flags
        self.bmc.set_power(True)

    async def ssh(self, machine: SimMachine) -> asyncssh.SSHClientConnection:
        info = self.fleet.nodes[self.node.uuid].driver_internal_info
        host = asyncssh.import_public_key(info["boot_host_public_key"])
        assert machine.ramdisk is not None
        return await asyncssh.connect(
            "127.0.0.1",
            machine.ramdisk.port,
            known_hosts=([host], [], []),
            client_keys=[asyncssh.import_private_key(info["boot_client_private_key"])],
            username="root",
            config=None,
        )

    def write(self, job: str = "one") -> str:
        digest = hashlib.sha512(self.image.read_bytes()).hexdigest()
        return f"metald-ramdisk image --job {job} --disk sda --size {self.image.stat().st_size} --sha512 {digest}"


@pytest.fixture
async def site(tmp_path: Path, ramdisk_program: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path, ramdisk_program)
    await made.server.start()
    yield made
    await made.server.close()


def _ready(machine: SimMachine) -> bool:
    return machine.counters.ready_calls > 0


async def test_boots_the_ramdisk_writes_an_image_once_and_starts_it_from_its_disk(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        site.boot()
        await machine.until(_ready)
        assert machine.running == "ramdisk"
        [(node, facts)] = site.fleet.calls
        assert (node, facts["port"]) == (site.node.uuid, machine.ramdisk.port if machine.ramdisk else 0)
        async with await site.ssh(machine) as connection:
            disks = await connection.run("metald-ramdisk disks", check=True)
            assert '"name":"sda"' in str(disks.stdout)
            for _ in range(2):
                done = await connection.run(site.write(), check=True)
                assert '"state":"done"' in str(done.stdout)
        site.bmc.set_power(False)
        assert machine.running == ""
        assert machine.disk.read_bytes().startswith(site.image.read_bytes())
        site.boot(DISK)
        await machine.until(lambda m: m.running == "instance")
        report = machine.report()
    assert {k: report[k] for k in ("writes_started", "writes_done", "ramdisks", "network_boots", "disk_boots", "starts")} == {
        "writes_started": 1,
        "writes_done": 1,
        "ramdisks": 1,
        "network_boots": 1,
        "disk_boots": 1,
        "starts": 2,
    }
    assert report["bytes_written"] == site.image.stat().st_size


async def test_power_cut_ends_a_write_and_its_connection_at_once(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        machine.faults.holds_at = 1 << 20
        site.boot()
        await machine.until(_ready)
        ramdisk = machine.ramdisk
        assert ramdisk is not None
        connection = await site.ssh(machine)
        running = asyncio.ensure_future(connection.run(site.write()))
        await machine.faults.held.wait()
        assert ramdisk.writing()
        site.bmc.set_power(False)
        done = await running
        assert done.exit_status is None
        await connection.wait_closed()
        while ramdisk.writing():
            await asyncio.sleep(0.01)
        assert machine.report()["writes_started"] == 1
        assert machine.report()["writes_done"] == 0


async def test_writer_outlives_the_client_that_started_it(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        machine.faults.holds_at = 1 << 20
        site.boot()
        await machine.until(_ready)
        connection = await site.ssh(machine)
        running = asyncio.ensure_future(connection.run(site.write()))
        await machine.faults.held.wait()
        connection.abort()
        await asyncio.gather(running, return_exceptions=True)
        machine.go_on()
        async with await site.ssh(machine) as again:
            done = await again.run(site.write(), check=True)
        assert '"state":"done"' in str(done.stdout)
        assert machine.report()["writes_started"] == 1
        assert machine.report()["writes_done"] == 1


async def test_ramdisk_that_dies_restarts_from_the_firmware_when_told(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        machine.faults.dies_at = 1 << 20
        machine.faults.dies_restarting = True
        site.boot(PXE[:0] + b"\xc0" + PXE[1:])
        await machine.until(_ready)
        connection = await site.ssh(machine)
        await asyncio.gather(connection.run(site.write()), return_exceptions=True)
        await machine.until(lambda m: m.counters.ready_calls == 2)
        assert machine.counters.starts == 2
        assert site.bmc.counters.power_on == 1


async def test_only_the_ramdisks_program_is_run_for_a_client(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        site.boot()
        await machine.until(_ready)
        async with await site.ssh(machine) as connection:
            refused = await connection.run("touch /tmp/never")
            assert refused.exit_status == 127
            assert (await connection.run("metald-ramdisk nonsense")).exit_status == 2


async def test_without_anything_to_boot_the_firmware_tries_again(site: Site) -> None:
    async with site.machine() as machine:
        site.boot()
        await machine.until(lambda m: m.counters.nothing_to_boot >= 1)
        site.node = site.fleet.boot(site.node)
        await machine.until(_ready)
        assert machine.counters.network_boots >= 2


async def test_firmware_that_hangs_never_asks(site: Site) -> None:
    async with site.machine() as machine:
        machine.faults.never_boots = True
        machine.faults.boot_time = 0
        site.boot()
        for _ in range(5):
            await asyncio.sleep(0)
        assert machine.counters.network_boots == 0
        assert machine.running == "firmware"


async def test_reset_starts_the_machine_again(site: Site) -> None:
    site.node = site.fleet.boot(site.node)
    async with site.machine() as machine:
        site.boot(b"\xc0" + PXE[1:])
        await machine.until(_ready)
        site.bmc._change("reset", True)
        await machine.until(lambda m: m.counters.ready_calls == 2)
        assert machine.counters.starts == 2
