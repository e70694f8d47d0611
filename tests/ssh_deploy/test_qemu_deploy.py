"""The whole way on a real virtual machine: ramdisk, SSH, image, config drive, boot loader, and the system that comes up."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from lab.image import build_tiny_image
from metald.boot import credentials
from metald.drivers.base import Done, Wait
from metald.ramdisk.build import build
from tests.support.deploy_site import Site, Steps
from tests.support.qemu import MAC, Machine

pytestmark = pytest.mark.qemu
DRIVE = {"meta_data": {"hostname": "from-drive"}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder, folder / "work")
    return folder


async def _until_ssh(port: int, key: asyncssh.SSHKey) -> asyncssh.SSHClientConnection:
    async with asyncio.timeout(120):
        while True:
            try:
                return await asyncssh.connect(
                    "127.0.0.1",
                    port,
                    username="root",
                    client_keys=[key],
                    known_hosts=None,
                    server_host_key_algs=["ssh-ed25519"],
                    config=None,
                    agent_path=None,
                    login_timeout=3,
                )
            except (OSError, asyncssh.Error, TimeoutError):
                await asyncio.sleep(0.2)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path, tmp_path, 0)
    await made.boot_http.start()
    yield made
    await made.deploy.close()
    await made.boot_http.close()


async def _until_ready(site: Site) -> None:
    async with asyncio.timeout(120):
        while not site.fleet.calls:
            await asyncio.sleep(0.05)


def _command_line(site: Site, machine: Machine) -> str:
    node = site.fleet.nodes[site.uuid]
    info = {**node.driver_internal_info, **credentials.new_credentials("deploy")}
    site.fleet.change(node, driver_internal_info=info)
    port = site.boot_http.addresses[0][1]
    words = f"metald.url=http://10.0.2.2:{port} metald.node={site.uuid} metald.token={info['boot_token']}"
    return f"console=ttyS0 quiet {words} metald.port={machine.ssh_port} BOOTIF=01-{MAC.replace(':', '-')}"


async def _deploy(site: Site, steps: Steps) -> None:
    await site.deploy.prepare(steps)
    for call in (site.deploy.write_image, site.deploy.write_configdrive, site.deploy.prepare_instance_boot, site.deploy.tear_down_agent):
        await call(steps)


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
async def test_from_nothing_to_ssh(site: Site, parts: Path, tmp_path: Path, uefi: bool) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    image = build_tiny_image(site.image, key.export_public_key().decode(), work=parts / "work")
    site.instance(image_checksum=hashlib.sha512(image.read_bytes()).hexdigest(), configdrive=DRIVE)
    if uefi:
        site.instance(capabilities={"boot_mode": "uefi"})
    machine = Machine(tmp_path / "machine", uefi=uefi)
    async with machine.running(parts / "kernel", parts / "initramfs", _command_line(site, machine)):
        await _until_ready(site)
        [(_, facts)] = site.fleet.calls
        assert facts["boot_mode"] == ("uefi" if uefi else "bios")
        await _deploy(site, site.steps())
    async with machine.running():
        connection = await _until_ssh(machine.ssh_port, key)
        async with connection:
            name = await connection.run("hostname", check=True)
            assert str(name.stdout).strip() == "from-drive"


async def test_an_nvme_disk_erases_itself(site: Site, parts: Path, tmp_path: Path) -> None:
    """QEMU's NVMe controller formats; the marks on the disk are gone, and so is what it held."""
    machine = Machine(tmp_path / "machine", nvme=True, disk_size=64 << 20)
    machine.disk.write_bytes(b"secret of the last tenant\n" * ((64 << 20) // 26) + bytes(20))
    async with machine.running(parts / "kernel", parts / "initramfs", _command_line(site, machine)):
        await _until_ready(site)
        steps = site.steps()
        async with asyncio.timeout(300):
            while not isinstance(outcome := await site.deploy.erase_devices_express(steps), Done):
                assert isinstance(outcome, Wait)
                assert outcome.look is not None
                await outcome.look()
    assert [data["method"] for kind, data in steps.notes if kind == "erasure"] == ["nvme"]
    assert b"secret" not in machine.disk.read_bytes()
