"""The same promises, kept by the machine with the real ramdisk program and by the light one of a simulated fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.ssh.layout import read_layout
from metald.drivers.ssh.ramdisk import WrittenWrong
from metald.errors import DeployError, RamdiskLost
from metald.model import BootDevice
from metald.sim.blade import Blade, Plan
from metald.sim.disk import Shelf
from metald.sim.sshd import Sshd
from metald.sim.story import Story
from tests.support.boot_fleet import MAC
from tests.support.deploy_site import MIB, Site

DRIVE = {"meta_data": {"hostname": "n1"}}
PXE_ONCE, PXE_ALWAYS = b"\x80\x04\x00\x00\x00", b"\xc0\x04\x00\x00\x00"
ADDRESS = "127.81.0.1"


class LightSite(Site):
    """The same site with a light machine."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        await self.boot_http.start()
        url = f"http://127.0.0.1:{self.boot_http.addresses[0][1]}"
        sshd = Sshd(lambda address: blade.ramdisk if address == ADDRESS else None)
        sshd.start()
        plan = Plan(seed=1, story=Story(), shelf=Shelf(), boot_url=url, pace=0.01, ssh_port=sshd.port, disk_size=self._disk_size)
        self.machine: Any = Blade("n1", self.bmc, ADDRESS, (MAC,), plan)
        blade = self.machine
        blade.attach()
        try:
            yield self
            await self.deploy.close()
        finally:
            await blade.detach()
            await sshd.close()
            await self.boot_http.close()
        assert not blade.defects


@pytest.fixture(params=["real", "light"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, ramdisk_program: Path) -> AsyncIterator[Site]:
    kind = Site if request.param == "real" else LightSite
    async with kind(tmp_path, ramdisk_program, 128 * MIB).running() as made:
        yield made


async def deploy(site: Site, steps: Any) -> None:
    for call in (site.deploy.write_image, site.deploy.write_configdrive, site.deploy.prepare_instance_boot, site.deploy.tear_down_agent):
        await call(steps)


async def test_an_image_and_a_config_drive_are_written_once_and_the_disk_boots(site: Site) -> None:
    site.instance(configdrive=DRIVE)
    steps = site.steps()
    await site.boot()
    await deploy(site, steps)
    await site.deploy.write_image(steps)
    ramdisk = await site.deploy.ramdisk(steps.node)
    (disk,) = await ramdisk.disks()
    layout = await read_layout(ramdisk, disk)
    assert layout.table is not None
    assert not layout.table.repaired
    assert layout.table.named("config-2") is not None
    assert layout.has_boot_code
    assert site.management.devices == [(BootDevice.DISK, True)]
    site.bmc.set_power(False)
    await site.deploy.close()
    site.bmc.boot_options[5] = b"\xc0\x08\x00\x00\x00"
    site.bmc.set_power(True)
    await site.machine.until(lambda m: m.running == "instance")
    counted = site.machine.report()
    assert (counted["writes_started"], counted["writes_done"], counted["disk_boots"], counted["ramdisks"]) == (2, 2, 1, 1)


async def test_wiping_takes_the_partition_table_and_the_boot_code(site: Site) -> None:
    steps = site.steps()
    await site.boot()
    await deploy(site, steps)
    await site.boot()
    await site.deploy.erase_devices_metadata(steps)
    site.bmc.set_power(False)
    site.fleet.change(steps.node, driver_internal_info={})
    site.bmc.set_power(True)
    await site.machine.until(lambda m: m.counters.nothing_to_boot)
    assert site.machine.report()["disk_boots"] == 0


async def test_a_bad_image_and_a_small_disk_are_refused(site: Site) -> None:
    steps = site.steps()
    await site.deploy.prepare(steps)
    await site.boot()
    ramdisk = await site.deploy.ramdisk(steps.node)
    (disk,) = await ramdisk.disks()
    assert disk.size == 128 * MIB
    image = steps.node.driver_internal_info["deploy_image"]
    with pytest.raises(WrittenWrong):
        await ramdisk.write(disk, "image", size=image["size"], sha512="0" * 128, show=lambda _: None)
    with pytest.raises(DeployError):
        await ramdisk.write(disk, "image", size=10, sha512=image["sha512"], show=lambda _: None)
    with pytest.raises(DeployError):
        await ramdisk.write(disk, "configdrive", size=10, sha512="00", show=lambda _: None)


async def test_a_power_cut_ends_everything_and_the_connection(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    ramdisk = await site.deploy.ramdisk(steps.node)
    await ramdisk.disks()
    site.bmc.set_power(False)
    assert site.machine.ramdisk is None
    assert site.machine.running == ""
    with pytest.raises(RamdiskLost):
        await ramdisk.disks()


@pytest.mark.parametrize(("flags", "boots"), [(PXE_ONCE, 1), (PXE_ALWAYS, 2)])
async def test_a_boot_device_counts_once_or_always(site: Site, flags: bytes, boots: int) -> None:
    steps = site.steps()
    await site.boot()
    await deploy(site, steps)
    before = site.machine.counters.ramdisks
    for _ in range(2):
        site.bmc.set_power(False)
        if not site.machine.running and flags:
            site.bmc.boot_options[5], flags = flags, b""
        starts = site.machine.counters.ramdisks + site.machine.counters.disk_boots
        site.fleet.boot(steps.node)
        site.bmc.set_power(True)
        await site.machine.until(lambda m, starts=starts: m.counters.ramdisks + m.counters.disk_boots > starts)
    assert site.machine.counters.ramdisks - before == boots


async def test_another_key_is_not_let_in(site: Site) -> None:
    await site.boot()
    stranger = site.fleet.nodes[site.uuid]
    keys = site.fleet.boot(site.fleet.add()).driver_internal_info
    info = {**stranger.driver_internal_info, "boot_client_private_key": keys["boot_client_private_key"]}
    site.fleet.change(stranger, driver_internal_info=info)
    with pytest.raises(DeployError, match="refuses the key"):
        await site.deploy.ramdisk(site.fleet.nodes[site.uuid])
