"""The firmware's mode and secure boot: set for an instance that asks for them where the BMC can, and told where it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.drivers.base import HardwareType, NodeContext, StepContext
from metald.drivers.noop import NoopManagement
from metald.drivers.registry import Registry
from metald.model import BootMode, ProvisionState, Verb
from tests.support.house import SCRIPTED, House, settings

P = ProvisionState
SECURE = {"capabilities": {"secure_boot": "true"}}


class Able(NoopManagement):
    """A BMC that sets both."""

    name = "able"

    def __init__(self) -> None:
        self.done: list[Any] = []

    async def set_boot_mode(self, ctx: StepContext, mode: BootMode) -> None:
        self.done.append(mode.value)

    async def set_secure_boot(self, ctx: StepContext, on: bool) -> None:
        self.done.append(on)

    async def set_boot_device(self, ctx: NodeContext, device: Any, *, persistent: bool = False) -> None:
        self.done.append(device.value)


class FirmwareHouse(House):
    """Scripted machines, with such a BMC and with one that cannot."""

    def registry(self) -> Registry:
        found = super().registry()
        self.able = Able()
        self.deploy.uses_ramdisk = True  # type: ignore[misc]
        kind = HardwareType(name="scripted", interfaces={**SCRIPTED.interfaces, "management": ("able", "noop")})
        return Registry([kind], [*found._interfaces.values(), self.able])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[FirmwareHouse]:
    made = FirmwareHouse(tmp_path, settings())
    async with made.open():
        yield made


async def details(house: House, uuid: str, step: str) -> list[str]:
    return [e.data["detail"] for e in await house.conductor.timeline(uuid) if e.type == "node.step" and e.data["step"] == step]


async def test_secure_boot_comes_with_the_instance_and_goes_with_it(house: FirmwareHouse) -> None:
    node = await house.add(provision_state=P.AVAILABLE, instance_info=SECURE, management_interface="able")
    node = await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert house.able.done == ["uefi", "pxe", True]
    assert (node.boot_mode, node.secure_boot) == ("uefi", True)
    node = await house.do(node.uuid, Verb.DELETE, P.AVAILABLE)
    assert house.able.done[3] is False
    assert (node.boot_mode, node.secure_boot) == ("uefi", False)


async def test_a_bmc_that_cannot_is_no_error(house: FirmwareHouse) -> None:
    node = await house.add(provision_state=P.AVAILABLE, instance_info=SECURE, management_interface="noop")
    node = await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert (node.boot_mode, node.secure_boot) == (None, None)
    assert "up to the firmware" in (await details(house, node.uuid, "prepare_ramdisk"))[0]
    assert "secure boot on" in (await details(house, node.uuid, "prepare_instance"))[0]


async def test_who_asks_for_nothing_gets_nothing_changed(house: FirmwareHouse) -> None:
    node = await house.add(provision_state=P.AVAILABLE, management_interface="able", boot_mode="bios")
    await house.do(node.uuid, Verb.DEPLOY, P.ACTIVE)
    assert house.able.done == ["pxe"]
