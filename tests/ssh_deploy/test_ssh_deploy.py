"""The deploy interface `ssh` against a simulated machine whose sshd, ramdisk program and disk are real."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from aiohttp import web

from metald.drivers.ssh.deploy import SshDeploy
from metald.drivers.ssh.inspect import SshInspect
from metald.drivers.ssh.partitions import LINUX_DATA, Partition, Table
from metald.errors import DeployError, ImageError, Invalid, RamdiskLost
from metald.images.config_drive import make_iso
from metald.model import BootDevice
from tests.support.boot_fleet import MAC
from tests.support.deploy_site import MIB, Site, gpt_image

DRIVE = {"meta_data": {"hostname": "n1"}, "user_data": "#cloud-config\n"}


@pytest.fixture
async def site(tmp_path: Path, ramdisk_program: Path) -> AsyncIterator[Site]:
    async with Site(tmp_path, ramdisk_program, 128 * MIB).running() as made:
        yield made


def table_on(site: Site) -> Table:
    table = Table.parse(site.disk.read_bytes()[: 64 * 512], 128 * MIB // 512)
    assert table is not None
    return table


async def deploy(site: Site, steps: Any = None) -> Any:
    steps = steps or site.steps()
    for call in (
        site.deploy.write_image,
        site.deploy.write_configdrive,
        site.deploy.prepare_instance_boot,
        site.deploy.tear_down_agent,
    ):
        await call(steps)
    return steps


async def test_writes_image_and_config_drive_and_makes_the_disk_boot(site: Site) -> None:
    site.instance(configdrive=DRIVE)
    steps = site.steps()
    await site.deploy.validate(steps)
    await site.deploy.prepare(steps)
    assert not await site.deploy.ramdisk_ready(steps)
    await site.boot()
    assert await site.deploy.ramdisk_ready(steps)
    await deploy(site, steps)
    disk, image = site.disk.read_bytes(), site.image.read_bytes()
    assert disk[:440] == image[:440]
    assert disk[64 * 512 : 4 * MIB - 33 * 512] == image[64 * 512 : 4 * MIB - 33 * 512]
    table = table_on(site)
    assert not table.repaired
    drive = table.named("config-2")
    assert drive is not None
    assert drive.sectors * 512 == 64 * MIB
    content = disk[drive.first * 512 : (drive.last + 1) * 512]
    assert content[0x8001:0x8006] == b"CD001"
    assert b'"hostname": "n1"' in content
    assert site.management.devices == [(BootDevice.DISK, True)]
    assert site.machine.report()["writes_started"] == 2
    assert any(shown.get("message", "").startswith("Reading back") and shown["bytes"] == shown["total"] for shown in steps.shown)
    assert [kind for kind, _ in steps.notes] == ["image_written"]


async def test_every_step_may_run_twice_and_writes_once(site: Site) -> None:
    site.instance(configdrive=DRIVE)
    await site.boot()
    steps = site.steps()
    for call in (
        site.deploy.write_image,
        site.deploy.write_configdrive,
        site.deploy.prepare_instance_boot,
    ):
        await call(steps)
        before = site.disk.read_bytes()
        await call(steps)
        assert site.disk.read_bytes() == before
    for _ in range(2):
        await site.deploy.tear_down_agent(steps)
    assert site.machine.report()["writes_started"] == 2


async def test_a_new_daemon_follows_the_writer_of_the_old_one(site: Site) -> None:
    site.machine.faults.holds_at = MIB
    await site.boot()
    steps = site.steps()
    first = asyncio.create_task(site.deploy.write_image(steps))
    await asyncio.wait_for(site.machine.faults.held.wait(), 20)
    first.cancel()
    await asyncio.wait([first])
    await site.deploy.close()
    again = SshDeploy(site.settings, site.images)
    second = asyncio.create_task(again.write_image(steps))
    site.machine.go_on()
    await second
    await again.close()
    assert site.machine.report()["writes_started"] == 1
    assert site.disk.read_bytes()[: 4 * MIB] == site.image.read_bytes()


async def test_the_writer_goes_on_when_the_boot_server_comes_back(site: Site) -> None:
    site.machine.faults.holds_at = MIB
    await site.boot()
    writing = asyncio.create_task(site.deploy.write_image(site.steps()))
    await asyncio.wait_for(site.machine.faults.held.wait(), 20)
    await site.restart_boot_http()
    site.machine.go_on()
    await writing
    assert site.disk.read_bytes()[: 4 * MIB] == site.image.read_bytes()
    assert site.machine.report()["writes_started"] == 1


async def test_a_ramdisk_that_dies_while_writing_is_noticed(site: Site) -> None:
    await site.boot()
    site.machine.faults.dies_at = MIB
    await site.boot()
    with pytest.raises(RamdiskLost, match="n1"):
        await site.deploy.write_image(site.steps())
    await site.boot()
    await site.deploy.write_image(site.steps())
    assert site.disk.read_bytes()[: 4 * MIB] == site.image.read_bytes()


async def test_no_ramdisk_of_this_boot(site: Site) -> None:
    with pytest.raises(RamdiskLost, match="no ramdisk has called"):
        await site.deploy.write_image(site.steps())
    await site.boot()
    node = site.fleet.nodes[site.uuid]
    site.fleet.change(node, driver_internal_info={**node.driver_internal_info, "boot_token": "of another boot"})
    assert not await site.deploy.ramdisk_ready(site.steps())
    with pytest.raises(RamdiskLost):
        await site.deploy.write_image(site.steps())


async def test_another_machine_at_the_address_is_refused(site: Site) -> None:
    await site.boot()
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    node = site.fleet.nodes[site.uuid]
    site.fleet.change(node, driver_internal_info={**node.driver_internal_info, "boot_host_public_key": stranger})
    with pytest.raises(DeployError, match="wrong host key"):
        await site.deploy.write_image(site.steps())


async def test_a_ramdisk_whose_sshd_is_gone(site: Site) -> None:
    site.machine.faults.sshd_refuses = True
    await site.boot()
    with pytest.raises(RamdiskLost, match="cannot be reached"):
        await site.deploy.write_image(site.steps())


async def test_an_image_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path: Path, ramdisk_program: Path) -> None:
    async with Site(tmp_path, ramdisk_program, 3 * MIB).running() as site:
        await site.boot()
        with pytest.raises(DeployError, match=r"4194304 bytes.*3145728"):
            await site.deploy.write_image(site.steps())
        assert not any(site.disk.read_bytes())


async def test_hints_that_match_nothing_list_what_was_found(site: Site) -> None:
    site.instance(root_device={"serial": "s== other", "size": ">= 10"})
    await site.boot()
    with pytest.raises(DeployError, match=r"/dev/sda.*serial is sim-.*wanted 's== other'.*size is 0"):
        await site.deploy.write_image(site.steps())


async def test_the_root_disk_that_was_chosen_must_stay(site: Site) -> None:
    await site.boot()
    steps = site.steps()
    await site.deploy.write_image(steps)
    steps.memo["root_disk"] = {"boot": "another", "disk": {**steps.memo["root_disk"]["disk"], "name": "/dev/sdz"}}
    await site.deploy.prepare_instance_boot(steps)
    steps.memo["root_disk"]["disk"]["serial"] = "exchanged"
    with pytest.raises(DeployError, match=r"the root disk /dev/sdz .* is gone"):
        await site.deploy.prepare_instance_boot(steps)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"image_source": None}, "image_source"),
        ({"root_device": {"colour": "red"}}, "colour"),
        ({"configdrive": {"metadata": {}}}, "metadata"),
        ({"image_checksum": "md5:" + "0" * 32}, "MD5"),
    ],
)
async def test_validate_names_what_is_wrong(site: Site, info: dict[str, Any], words: str) -> None:
    site.instance(**info)
    with pytest.raises(Invalid, match=words):
        await site.deploy.validate(site.steps())


async def test_wrong_checksum_fails_before_the_machine_is_touched(site: Site) -> None:
    site.instance(image_checksum="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="wrong checksum"):
        await site.deploy.prepare(site.steps())


async def test_a_cache_that_was_damaged_is_found_out_and_mended(site: Site) -> None:
    await site.deploy.prepare(site.steps())
    path = site.images.image_for(site.fleet.nodes[site.uuid], "image")
    assert path is not None
    with path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"damaged")
    await site.boot()
    await site.deploy.write_image(site.steps())
    assert site.disk.read_bytes()[: 4 * MIB] == site.image.read_bytes()


async def test_config_drive_given_as_base64_and_by_url(site: Site) -> None:
    iso = make_iso({"meta_data.json": b"{}"})

    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=iso if request.path == "/iso" else base64.b64encode(gzip.compress(iso)))

    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        for given in (base64.b64encode(gzip.compress(iso)).decode(), f"http://127.0.0.1:{port}/iso", f"http://127.0.0.1:{port}/packed"):
            site.instance(configdrive=given)
            await site.boot()
            steps = site.steps()
            await site.deploy.write_image(steps)
            await site.deploy.write_configdrive(steps)
            drive = table_on(site).named("config-2")
            assert drive is not None
            assert site.disk.read_bytes()[drive.first * 512 : drive.first * 512 + len(iso)] == iso
    finally:
        await runner.cleanup()


async def test_a_partition_labelled_config_2_is_used(site: Site) -> None:
    data = bytearray(site.image.read_bytes())
    table = Table.parse(bytes(data[: 64 * 512]), len(data) // 512)
    assert table is not None
    table = Table(512, len(data) // 512, table.guid, table.partitions[:1])
    table = table.with_partition(Partition(7, LINUX_DATA, uuid.UUID(int=9), 2048, 4095, "config-2"))
    for offset, piece in table.render():
        data[offset : offset + len(piece)] = piece
    data[:440] = b"\x90" * 440
    site.image.write_bytes(data)
    site.instance(configdrive=DRIVE, image_checksum=None)
    await site.boot()
    await deploy(site)
    assert site.disk.read_bytes()[2048 * 512 + 0x8001 :][:5] == b"CD001"
    assert [one.number for one in table_on(site).partitions] == [1, 7]


async def test_an_image_without_partitions_takes_no_config_drive(site: Site) -> None:
    site.image.write_bytes(b"\1" * MIB)
    site.instance(configdrive=DRIVE, image_checksum=None)
    await site.boot()
    steps = site.steps()
    await site.deploy.write_image(steps)
    with pytest.raises(DeployError, match="no partition table"):
        await site.deploy.write_configdrive(steps)


async def test_an_image_without_boot_code_does_not_boot_by_bios(site: Site) -> None:
    gpt_image(site.image, boot_code=False)
    site.instance(image_checksum=None)
    await site.boot()
    steps = site.steps()
    await site.deploy.write_image(steps)
    with pytest.raises(DeployError, match="no boot code for BIOS"):
        await site.deploy.prepare_instance_boot(steps)
    assert site.management.devices == []


async def test_cleaning_wipes_tables_and_signatures(site: Site) -> None:
    site.instance(configdrive=DRIVE)
    await site.boot()
    await deploy(site)
    await site.boot()
    steps = site.steps()
    for _ in range(2):
        await site.deploy.erase_devices_metadata(steps)
        disk = site.disk.read_bytes()
        assert not any(disk[:MIB])
        assert not any(disk[-MIB:])
        assert b"CD001" not in disk


async def test_an_inspection_tells_of_machine_cards_and_disks(site: Site) -> None:
    await site.boot()
    steps: Any = site.steps()
    inspect = SshInspect(site.deploy)
    assert await inspect.ramdisk_ready(steps)
    await inspect.inspect_hardware(steps)
    found = steps.memo["found"]["inventory"]
    assert found["cpu"]["architecture"] == os.uname().machine
    assert found["cpu"]["count"] >= 1
    assert found["memory"]["physical_mb"] > 0
    assert [disk["size"] for disk in found["disks"]] == [site.disk.stat().st_size]
    assert MAC in [card["mac_address"] for card in found["interfaces"]]


async def test_tear_down_forgets_the_image_and_the_drive(site: Site) -> None:
    site.instance(configdrive=DRIVE)
    await site.boot()
    steps = site.steps()
    await site.deploy.write_image(steps)
    await site.deploy.write_configdrive(steps)
    node = site.fleet.nodes[site.uuid]
    assert site.images.image_for(node, "configdrive") is not None
    await site.deploy.tear_down(steps)
    node = site.fleet.nodes[site.uuid]
    assert site.images.image_for(node, "configdrive") is None
    assert site.images.image_for(node, "image") is None
