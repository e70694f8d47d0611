"""A machine is restarted once, wherever the daemon dies meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from metald.drivers import fake
from metald.drivers.base import NodeContext
from metald.drivers.fake.interfaces import FakePower
from metald.model import Node, PowerState, PowerTarget, ProvisionState
from metald.model.caller import SYSTEM
from tests.support.house import House, settings


class _Machine(fake.FakeHardware):
    """Counts what it was turned to."""

    def __init__(self) -> None:
        super().__init__(settings().drivers.fake)
        self.turned: list[str] = []

    def set_power(self, node: Node, state: PowerState) -> None:
        if self.power(node) is not state:
            self.turned.append(state.value)
        super().set_power(node, state)


@pytest.mark.parametrize("target", [PowerTarget.REBOOT, PowerTarget.SOFT_REBOOT])
@pytest.mark.parametrize("dies_after", ["power off", "power on"])
async def test_a_restart_is_done_once_although_the_daemon_dies_right_after_an_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: PowerTarget, dies_after: str
) -> None:
    house = House(tmp_path, settings(drain_timeout=0.01))
    machine = house.hardware = _Machine()
    real, struck = FakePower.set_power_state, asyncio.Event()

    async def dying(self: FakePower, ctx: NodeContext, target: PowerTarget, *, timeout: float | None = None) -> None:
        await real(self, ctx, target, timeout=timeout)
        if machine.turned[-1:] == [dies_after]:
            struck.set()
            await asyncio.Event().wait()

    async with house.open():
        node = await house.add(provision_state=ProvisionState.ACTIVE, power_state=PowerState.ON)
        machine.set_power(node, PowerState.ON)
        machine.turned.clear()
        monkeypatch.setattr(FakePower, "set_power_state", dying)
        await house.conductor.set_power(node.uuid, target, SYSTEM)
        await struck.wait()
    monkeypatch.setattr(FakePower, "set_power_state", real)
    async with house.open():
        await house.until(node.uuid, ProvisionState.ACTIVE)
        assert house.node(node.uuid).target_power_state is None
        assert house.node(node.uuid).power_state is PowerState.ON
    assert machine.turned == ["power off", "power on"]
