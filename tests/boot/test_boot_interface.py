"""The boot interface `ipxe`: credentials once per boot, DHCP entries, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metald.boot import credentials
from metald.boot.fills import fills_of
from metald.boot.interface import HttpBoot, HttpIpxeBoot, IpxeBoot, NetworkBoot, PxeBoot
from metald.config import Settings
from metald.drivers.network_noop import NoopNetwork
from metald.errors import ImageError, Invalid, Unsupported
from metald.model import Node, Port
from tests.support.boot_fleet import MAC, boot_settings
from tests.support.far_server import far_server


class Told:
    """A DHCP provider that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    async def bind(self, node: Node, ports: list[Port]) -> None:
        self.calls.append(("bind", [port.address for port in ports]))

    async def release(self, node: Node, ports: list[Port]) -> None:
        self.calls.append(("release", [port.address for port in ports]))

    async def addresses(self, ports: list[Port]) -> dict[str, str]:
        return {}


class Context:
    """The part of a StepContext that a boot interface uses."""

    def __init__(self, node: Node, *ports: Port) -> None:
        self.node, self.ports = node, list(ports)
        self.memo: dict[str, Any] = {}
        self.checkpoints = 0
        self.deploy = SimpleNamespace(agent=False, netboots=False, instance_boot=lambda *_: None)
        self.rescue = self.inspect = SimpleNamespace(agent=False)

    def set(self, **fields: Any) -> None:
        self.node = self.node.changed(**fields)

    async def checkpoint(self) -> None:
        self.checkpoints += 1


def made(kind: type[NetworkBoot], dhcp: Told, settings: Settings) -> Any:
    return kind(settings, dhcp, fills_of(settings))


@pytest.fixture
def dhcp() -> Told:
    return Told()


@pytest.fixture
def boot(tmp_path: Path, dhcp: Told) -> IpxeBoot:
    return made(IpxeBoot, dhcp, boot_settings(tmp_path))


@pytest.fixture
def ctx() -> Any:
    node = Node(driver="ipmi", driver_internal_info={"kept": 1})
    return Context(node, Port(node_uuid=node.uuid, address=MAC))


async def test_credentials_are_made_once_per_workflow(boot: IpxeBoot, dhcp: Told, ctx: Any) -> None:
    await boot.prepare_ramdisk(ctx, "deploy")
    first = ctx.node.driver_internal_info
    assert first["kept"] == 1
    assert first["boot_purpose"] == "deploy"
    assert ctx.checkpoints == 1
    assert first["boot_token"] not in str(ctx.memo)
    assert "PRIVATE" not in str(ctx.memo)
    await boot.prepare_ramdisk(ctx, "deploy")
    assert ctx.node.driver_internal_info == first
    assert ctx.checkpoints == 1
    assert dhcp.calls == [("bind", [MAC])] * 2
    # Another workflow's credentials, or another purpose's, are not taken over.
    ctx.memo = {}
    await boot.prepare_ramdisk(ctx, "deploy")
    second = ctx.node.driver_internal_info
    assert second["boot_token"] != first["boot_token"]
    await boot.prepare_ramdisk(ctx, "rescue")
    assert ctx.node.driver_internal_info["boot_token"] != second["boot_token"]
    assert ctx.node.driver_internal_info["boot_purpose"] == "rescue"


@pytest.mark.parametrize(("purpose", "released"), [("deploy", False), ("rescue", False), ("clean", True), ("inspect", True)])
async def test_clean_up(boot: IpxeBoot, dhcp: Told, ctx: Any, purpose: str, released: bool) -> None:
    await boot.prepare_ramdisk(ctx, purpose)
    for _ in range(2):
        await boot.clean_up_ramdisk(ctx)
        assert ctx.node.driver_internal_info == {"kept": 1}
    assert (("release", [MAC]) in dhcp.calls) is released
    assert ctx.memo == {}
    dhcp.calls.clear()
    await boot.prepare_instance(ctx)
    assert dhcp.calls == []
    await boot.clean_up_instance(ctx)
    assert dhcp.calls == [("release", [MAC])]


async def test_prepare_instance_takes_the_credentials_away(boot: IpxeBoot, ctx: Any) -> None:
    await boot.prepare_ramdisk(ctx, "deploy")
    await boot.prepare_instance(ctx)
    assert not credentials.wants_ramdisk(ctx.node)


async def test_validate(boot: IpxeBoot, ctx: Any, tmp_path: Path) -> None:
    await boot.validate(ctx)
    assert "kernel_append_params" in boot.properties()
    ctx.node = ctx.node.changed(instance_info={"kernel_append_params": "a\nb"})
    with pytest.raises(Invalid, match="kernel parameter"):
        await boot.validate(ctx)
    ctx.node = ctx.node.changed(instance_info={})
    (tmp_path / "ramdisk/initramfs").unlink()
    with pytest.raises(Invalid, match=r"lacks initramfs.*metald ramdisk build"):
        await boot.validate(ctx)
    ctx.ports = [port.changed(pxe_enabled=False) for port in ctx.ports]
    with pytest.raises(Invalid, match="no port"):
        await boot.validate(ctx)


async def test_network_noop(ctx: Any) -> None:
    network = NoopNetwork()
    assert (network.kind, network.name) == ("network", "noop")
    await network.validate(ctx)
    await network.add_provisioning_network(ctx)
    await network.remove_provisioning_network(ctx)


async def test_without_a_boot_server_nothing_can_boot(tmp_path: Path, dhcp: Told, ctx: Any) -> None:
    boot = made(IpxeBoot, dhcp, boot_settings(tmp_path, http_listen=""))
    with pytest.raises(Invalid, match=r"Set boot\.http_listen"):
        await boot.validate(ctx)


def loaders(folder: Path) -> list[str]:
    """Files for every loader that is not iPXE."""
    names = ("pxelinux.0", "ldlinux.c32", "bootx64.efi", "grubx64.efi", "bootaa64.efi", "grubaa64.efi")
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [f"{name}:{folder / name}" for name in names]


@pytest.mark.parametrize(
    ("kind", "capabilities", "cause"),
    [
        (IpxeBoot, "boot_mode:bios", ""),
        (IpxeBoot, "boot_mode:uefi,secure_boot:true", "not signed"),
        (HttpIpxeBoot, "boot_mode:uefi", ""),
        (HttpIpxeBoot, "boot_mode:bios", "needs UEFI"),
        (HttpIpxeBoot, "secure_boot:true", "not signed"),
        (PxeBoot, "boot_mode:bios", ""),
        (PxeBoot, "secure_boot:true", ""),
        (HttpBoot, "secure_boot:true", ""),
        (HttpBoot, "boot_mode:bios", "needs UEFI"),
    ],
)
async def test_what_firmware_each_is_for(tmp_path: Path, dhcp: Told, ctx: Any, kind: Any, capabilities: str, cause: str) -> None:
    ctx.node = ctx.node.changed(properties={"capabilities": capabilities})
    boot = made(kind, dhcp, boot_settings(tmp_path, loader_file_paths=loaders(tmp_path)))
    if not cause:
        await boot.validate(ctx)
        return
    with pytest.raises(Invalid, match=cause) as refused:
        await boot.validate(ctx)
    assert refused.value.field == "boot_interface"


@pytest.mark.parametrize(
    ("kind", "properties", "missing"),
    [
        (PxeBoot, {"capabilities": "boot_mode:bios"}, "ldlinux.c32"),
        (PxeBoot, {"capabilities": "boot_mode:uefi"}, "grubx64.efi"),
        (HttpBoot, {}, "bootx64.efi"),
        (HttpBoot, {"cpu_arch": "aarch64"}, "grubaa64.efi"),
    ],
)
async def test_loaders_that_are_not_there(
    tmp_path: Path, dhcp: Told, ctx: Any, kind: Any, properties: dict[str, str], missing: str
) -> None:
    ctx.node = ctx.node.changed(properties=properties)
    boot = made(kind, dhcp, boot_settings(tmp_path, loader_file_paths=loaders(tmp_path)))
    await boot.validate(ctx)
    (tmp_path / missing).unlink()
    with pytest.raises(Invalid, match=missing) as refused:
        await boot.validate(ctx)
    assert "boot.loader_file_paths" in str(refused.value)


async def test_pxe_needs_the_tftp_server(tmp_path: Path, dhcp: Told, ctx: Any) -> None:
    boot = made(PxeBoot, dhcp, boot_settings(tmp_path, tftp_listen=""))
    with pytest.raises(Invalid, match=r"Set boot\.tftp_listen"):
        await boot.validate(ctx)
    await made(PxeBoot, dhcp, boot_settings(tmp_path, tftp_listen="", tftp_address="10.0.0.1")).validate(ctx)


@pytest.mark.parametrize(
    ("kind", "http_boot", "remedy"),
    [
        (IpxeBoot, "loader", ""),
        (HttpIpxeBoot, "loader", ""),
        (HttpBoot, "image", ""),
        (HttpBoot, "loader", "boot.http_boot to image"),
        (PxeBoot, "image", "boot_interface to ipxe or http"),
    ],
)
async def test_who_boots_iso_images(tmp_path: Path, dhcp: Told, ctx: Any, kind: Any, http_boot: str, remedy: str) -> None:
    ctx.deploy.instance_boot = lambda *_: {"kind": "iso", "iso": "http://h/x.iso"}
    boot = made(kind, dhcp, boot_settings(tmp_path, http_boot=http_boot))
    if not remedy:
        boot.check_instance(ctx)
        return
    with pytest.raises(Unsupported, match="no ISO image") as refused:
        boot.check_instance(ctx)
    assert remedy in str(refused.value)


async def test_an_iso_image_that_the_firmware_loads_is_here_first(tmp_path: Path, dhcp: Told, ctx: Any) -> None:
    async with far_server({"x.iso": b"image"}) as far:
        ctx.deploy.instance_boot = lambda *_: {"kind": "iso", "iso": f"{far.url}/x.iso"}
        for kind, asked in ((IpxeBoot, []), (HttpBoot, ["/x.iso"])):
            boot = made(kind, dhcp, boot_settings(tmp_path))
            await boot.prepare_instance(ctx)
            assert far.asked == asked
            await boot._fills.close()


@pytest.mark.parametrize("kind", [IpxeBoot, PxeBoot])
async def test_files_of_other_servers_are_here_before_the_machine_starts(tmp_path: Path, dhcp: Told, ctx: Any, kind: Any) -> None:
    ctx.deploy.agent = True
    boot = made(kind, dhcp, boot_settings(tmp_path))
    async with far_server({"k": b"kernel", "r": b"ramdisk"}) as far:
        ctx.node = ctx.node.changed(driver_info={"deploy_kernel": f"{far.url}/k", "deploy_ramdisk": f"{far.url}/r"})
        await boot.prepare_ramdisk(ctx, "deploy")
        assert far.asked == ["/k", "/r"]
        assert dhcp.calls == [("bind", [MAC])]
        ctx.node = ctx.node.changed(driver_info={"deploy_kernel": f"{far.url}/k", "deploy_ramdisk": f"{far.url}/gone"})
        ctx.memo.clear()
        with pytest.raises(ImageError, match="gone cannot be fetched: its server answered 404"):
            await boot.prepare_ramdisk(ctx, "deploy")
        await boot._fills.close()
