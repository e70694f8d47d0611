"""The same promises, kept by both interfaces, against the simulator, OpenIPMI's ipmi_sim, and pyghmi's BMC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from metald.drivers.base import Management, Power
from metald.drivers.ipmi.ipmitool import Ipmitool, IpmitoolManagement, IpmitoolPower
from metald.drivers.ipmi.management import PyghmiManagement
from metald.drivers.ipmi.power import PyghmiPower
from metald.errors import BmcAuthFailed, BmcPrivilegeTooLow, BmcUnreachable
from metald.model import BootDevice, PowerState, PowerTarget
from metald.sim.rmcp import User
from tests.support.bmc import (
    ADMIN,
    WATCH,
    Context,
    OpenIpmi,
    Simulated,
    context,
    free_udp_port,
    hub,
    open_ipmi,
    pyghmi_bmc,
    quick,
    simulated,
)


class Case(NamedTuple):
    server: Simulated | OpenIpmi
    power: Power
    management: Management

    def context(self, user: User = ADMIN, **more: Any) -> Context:
        return context(self.server.address, self.server.port, user, **more)


@pytest.fixture(params=["simulator", "ipmi_sim", "pyghmi_bmc"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Simulated | OpenIpmi]:
    async with {"simulator": simulated, "ipmi_sim": partial(open_ipmi, tmp_path), "pyghmi_bmc": partial(pyghmi_bmc, tmp_path)}[
        request.param
    ]() as started:
        yield started


@pytest.fixture(params=["pyghmi", "ipmitool"])
async def case(request: pytest.FixtureRequest, server: Simulated | OpenIpmi) -> AsyncIterator[Case]:
    if request.param == "pyghmi":
        async with hub() as started:
            yield Case(server, PyghmiPower(started, started.settings), PyghmiManagement(started, started.settings))
    else:
        settings = quick()
        program = Ipmitool(settings)
        yield Case(server, IpmitoolPower(settings, program), IpmitoolManagement(settings, program))


async def test_power_goes_on_and_off_and_is_looked_at_first(case: Case) -> None:
    ctx = case.context()
    assert await case.power.get_power_state(ctx) is PowerState.OFF
    for target, state in ((PowerTarget.ON, PowerState.ON), (PowerTarget.OFF, PowerState.OFF)):
        for _ in range(2):
            await case.power.set_power_state(ctx, target)
            assert await case.power.get_power_state(ctx) is state
            assert case.server.power is (state is PowerState.ON)


@pytest.mark.parametrize("target", [PowerTarget.REBOOT, PowerTarget.SOFT_REBOOT])
async def test_a_reboot_ends_with_the_machine_on_wherever_it_began(case: Case, target: PowerTarget) -> None:
    ctx = case.context()
    for _ in range(2):
        await case.power.set_power_state(ctx, target)
        assert case.server.power


async def test_a_soft_power_off_waits_for_the_operating_system(case: Case) -> None:
    ctx = case.context()
    await case.power.set_power_state(ctx, PowerTarget.ON)
    await case.power.set_power_state(ctx, PowerTarget.SOFT_OFF)
    assert not case.server.power


async def test_a_node_that_must_stay_powered_is_rebooted_by_a_reset(case: Case) -> None:
    ctx = case.context(node={"disable_power_off": True})
    await case.power.set_power_state(ctx, PowerTarget.ON)
    await case.power.set_power_state(ctx, PowerTarget.REBOOT)
    assert case.server.power
    assert case.server.resets == 1


@pytest.mark.parametrize("device", [BootDevice.PXE, BootDevice.DISK])
async def test_a_boot_device_is_taken(case: Case, device: BootDevice) -> None:
    ctx = case.context()
    for persistent in (True, False):
        await case.management.set_boot_device(ctx, device, persistent=persistent)
        found = await case.management.get_boot_device(ctx)
        assert found == case.server.shown(device, persistent=persistent)


@pytest.mark.parametrize("user", [User(ADMIN.name, "wrong-word"), User("nobody", "wrong-word")])
async def test_wrong_credentials_are_said_to_be_that(case: Case, user: User) -> None:
    silent = user.name == "nobody" and not case.server.names_the_unknown
    with pytest.raises(BmcUnreachable if silent else BmcAuthFailed) as error:
        await case.power.get_power_state(case.context(user))
    assert silent or "ipmi_password" in str(error.value)
    assert "wrong-word" not in str(error.value)


async def test_a_user_with_too_little_privilege_is_told_so(case: Case) -> None:
    if not case.server.checks_privilege:
        pytest.skip("it does not check a user's limit")
    with pytest.raises(BmcPrivilegeTooLow):
        await case.power.set_power_state(case.context(WATCH), PowerTarget.ON)
    assert not case.server.power


async def test_a_lower_level_suffices_for_what_it_may_do(case: Case) -> None:
    if not case.server.knows_levels:
        pytest.skip("every session may do everything")
    ctx = case.context(WATCH, ipmi_priv_level="USER")
    assert await case.power.get_power_state(ctx) is PowerState.OFF
    with pytest.raises(BmcPrivilegeTooLow):
        await case.power.set_power_state(ctx, PowerTarget.ON)
    assert not case.server.power


async def test_both_suites_and_none_named(case: Case) -> None:
    for suite in (*case.server.suites, None):
        assert await case.power.get_power_state(case.context(ipmi_cipher_suite=suite)) is PowerState.OFF


@pytest.mark.parametrize("interface", ["pyghmi", "ipmitool"])
async def test_nobody_at_the_address_is_unreachable(interface: str) -> None:
    async with hub(command_timeout=0.5, login_timeout=0.3) as started:
        make: dict[str, Callable[[], Power]] = {
            "pyghmi": lambda: PyghmiPower(started, started.settings),
            "ipmitool": lambda: IpmitoolPower(started.settings),
        }
        with pytest.raises(BmcUnreachable) as error:
            await make[interface]().get_power_state(context("127.0.0.1", free_udp_port()))
    assert "ipmi_address" in str(error.value)


@pytest.mark.parametrize("interface", ["pyghmi", "ipmitool"])
async def test_a_kg_key_opens_real_bmc_software_and_a_wrong_one_is_told(interface: str, tmp_path: Path) -> None:
    key = b"Kg-of-19-bytes-long\0"  # ipmi_sim keeps no more
    async with open_ipmi(tmp_path, channel=f'    bmc_key "{key[:-1].decode()}"\n') as server, hub() as started:
        power = PyghmiPower(started, started.settings) if interface == "pyghmi" else IpmitoolPower(quick())
        assert await power.get_power_state(context(server.address, server.port, ipmi_hex_kg_key=key.hex())) is PowerState.OFF
        for wrong in (None, "41" * 20):
            with pytest.raises(BmcAuthFailed, match="Kg"):
                await power.get_power_state(context(server.address, server.port, ipmi_hex_kg_key=wrong))
