"""The boot interface `ipxe`: credentials once per boot, DHCP entries, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metald.boot import credentials
from metald.boot.interface import IpxeBoot
from metald.drivers.network_noop import NoopNetwork
from metald.errors import Invalid
from metald.model import Node, Port
from tests.support.boot_fleet import MAC, boot_settings


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


@pytest.fixture
def dhcp() -> Told:
    return Told()


@pytest.fixture
def boot(tmp_path: Path, dhcp: Told) -> IpxeBoot:
    return IpxeBoot(boot_settings(tmp_path), dhcp)


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
    boot = IpxeBoot(boot_settings(tmp_path, http_listen=""), dhcp)
    with pytest.raises(Invalid, match=r"Set boot\.http_listen"):
        await boot.validate(ctx)
