"""Boot flags on the wire, firmware modes, vendors' deviations, and BMCs that forget a persistent device."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.boot_mode import boot_mode, capabilities, requested_boot_mode
from metald.drivers.ipmi.client import SELECTORS, BootFlags
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.power import PyghmiPower
from metald.errors import Invalid
from metald.model import BootDevice, BootMode, Node, PowerTarget
from tests.support.bmc import Context, Simulated, context, hub, simulated


class Rig:
    def __init__(self, server: Simulated, power: PyghmiPower, management: PyghmiManagement) -> None:
        self.server, self.power, self.management = server, power, management

    def context(self, node: dict[str, Any] | None = None, **info: Any) -> Context:
        return context(self.server.address, self.server.port, node=node, **info)

    @property
    def flags(self) -> str:
        return self.server.bmc.boot_options[5].hex()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with simulated() as server, hub() as started:
        yield Rig(server, PyghmiPower(started, started.settings), PyghmiManagement(started, started.settings))


UEFI = {"properties": {"capabilities": "boot_mode:uefi"}}


@pytest.mark.parametrize(
    ("device", "persistent", "node", "flags"),
    [
        (BootDevice.PXE, False, {}, "8004000000"),
        (BootDevice.PXE, True, {}, "c004000000"),
        (BootDevice.PXE, False, UEFI, "a004000000"),
        (BootDevice.DISK, True, UEFI, "e008000000"),
        (BootDevice.SAFE, False, {}, "800c000000"),
        (BootDevice.CDROM, False, {}, "8014000000"),
        (BootDevice.BIOS, False, {}, "8018000000"),
        (BootDevice.FLOPPY, False, {}, "803c000000"),
        (BootDevice.DISK, True, {"properties": {"vendor": "Supermicro", "capabilities": "boot_mode:uefi"}}, "e024000000"),
        (BootDevice.DISK, True, {"properties": {"vendor": "Supermicro"}}, "c008000000"),
    ],
)
async def test_all_five_bytes(rig: Rig, device: BootDevice, persistent: bool, node: dict[str, Any], flags: str) -> None:
    ctx = rig.context(node)
    await rig.management.set_boot_device(ctx, device, persistent=persistent)
    assert rig.flags == flags
    assert rig.server.bmc.boot_options[3] == b"\x08"
    assert await rig.management.get_boot_device(ctx) == (device, persistent)


async def test_the_vendor_is_asked_of_the_bmc_when_the_node_does_not_say(rig: Rig) -> None:
    rig.server.bmc.manufacturer = 10876
    await rig.management.set_boot_device(rig.context(UEFI), BootDevice.DISK)
    assert rig.flags == "a024000000"


async def test_the_60_second_limit_can_be_left_in_force_and_may_be_unknown(rig: Rig) -> None:
    await rig.management.set_boot_device(rig.context(ipmi_disable_boot_timeout=False), BootDevice.PXE)
    assert rig.server.bmc.boot_options[3] == b"\x00"
    del rig.server.bmc.boot_options[3]
    await rig.management.set_boot_device(rig.context(), BootDevice.PXE)
    assert rig.flags == "8004000000"


async def test_no_choice_and_unknown_devices(rig: Rig) -> None:
    ctx = rig.context()
    assert await rig.management.get_boot_device(ctx) == (None, None)
    with pytest.raises(Invalid, match="wanboot"):
        await rig.management.set_boot_device(ctx, BootDevice.WANBOOT)
    assert set(rig.management.supported_boot_devices(ctx)) == set(SELECTORS)


async def test_a_bmc_that_forgets_is_told_before_each_boot(rig: Rig) -> None:
    ctx = rig.context(ipmi_force_boot_device=True)
    await rig.management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
    assert rig.flags == "8008000000"
    for _ in range(2):
        rig.server.bmc.boot_options[5] = bytes(5)
        await rig.power.set_power_state(ctx, PowerTarget.REBOOT)
        assert rig.flags == "8008000000"
    await rig.management.set_boot_device(ctx, BootDevice.PXE, persistent=False)
    await rig.power.set_power_state(ctx, PowerTarget.REBOOT)
    assert rig.flags == "8004000000"  # the next boot has its own choice
    await rig.power.set_power_state(ctx, PowerTarget.REBOOT)
    assert rig.flags == "8008000000"


@given(st.builds(BootFlags, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 15)))
def test_flags_survive_the_wire(flags: BootFlags) -> None:
    assert BootFlags.unpack(flags.pack()) == flags


@given(st.binary(min_size=2, max_size=9))
def test_any_flags_can_be_read(data: bytes) -> None:
    assert BootFlags.unpack(data).device in {None, *SELECTORS}


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, None),
        ({"boot_mode": "uefi"}, BootMode.UEFI),
        ({"properties": {"capabilities": "boot_mode:BIOS,x:y"}, "boot_mode": "uefi"}, BootMode.BIOS),
        ({"properties": {"capabilities": "boot_mode:bios"}, "instance_info": {"capabilities": {"boot_mode": "uefi"}}}, BootMode.UEFI),
        ({"instance_info": {"capabilities": '{"boot_mode": "uefi"}'}}, BootMode.UEFI),
        ({"instance_info": {"deploy_boot_mode": "uefi"}}, BootMode.UEFI),
        ({"properties": {"capabilities": "boot_mode:bios"}, "instance_info": {"capabilities": "secure_boot:true"}}, BootMode.UEFI),
        ({"properties": {"capabilities": "boot_mode:coreboot"}}, None),
    ],
)
def test_the_firmware_mode_asked_for(fields: dict[str, Any], mode: BootMode | None) -> None:
    node = Node(driver="ipmi", **fields)
    assert requested_boot_mode(node) is mode
    assert boot_mode(node) is (mode or BootMode.BIOS)
    assert boot_mode(node, BootMode.UEFI) is (mode or BootMode.UEFI)


@given(st.one_of(st.text(), st.none(), st.integers(), st.dictionaries(st.text(), st.text()), st.just("{" * 3000)))
def test_capabilities_are_read_from_anything(value: Any) -> None:
    assert isinstance(capabilities(value), dict)
