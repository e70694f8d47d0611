"""fake-hardware as a whole: which implementations it admits, that each takes the time its setting says, and a daemon's death."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metald.config import Fake
from metald.drivers.fake.hardware import FakeHardware
from metald.errors import DriverError
from metald.model import INTERFACES, Node, WorkflowState
from metald.model.caller import SYSTEM
from metald.statemachine.hardware import Hardware
from tests.support.api import Api
from tests.support.house import House, settings


async def test_every_interface_has_a_fake_or_needs_none(api: Api) -> None:
    driver = await api.get("/v1/drivers/fake-hardware")
    for kind in INTERFACES:
        enabled = set(driver[f"enabled_{kind}_interfaces"])
        assert driver[f"default_{kind}_interface"] == ("noop" if kind in ("network", "storage") else "fake")
        assert enabled & ({"noop"} if kind == "network" else {"fake"})
    for kind in ("bios", "console", "firmware", "inspect", "raid", "rescue", "vendor"):
        assert f"no-{kind}" in driver[f"enabled_{kind}_interfaces"]


async def test_implementations_of_other_hardware_types_combine_with_it(api: Api) -> None:
    chosen = {"deploy_interface": "scripted", "boot_interface": "quiet", "management_interface": "noop", "storage_interface": "fake"}
    node = await api.node(**chosen)
    assert {name: node[name] for name in chosen} == chosen
    assert (await api.get(f"/v1/nodes/{node['uuid']}/management/boot_device")) == {"boot_device": "pxe", "persistent": True}
    assert (await api.get(f"/v1/nodes/{node['uuid']}/management/boot_device/supported"))["supported_boot_devices"] == ["pxe", "disk"]


@pytest.fixture
def calls(api: Api) -> list[str]:
    """The interface types whose pretended hardware was called, in order."""
    found: list[str] = []
    call = api.house.hardware.call

    async def note(node: Node, kind: str) -> None:
        found.append(kind)
        await call(node, kind)

    api.house.hardware.call = note  # type: ignore[method-assign]
    return found


async def test_each_interface_is_as_slow_as_its_own_setting(api: Api, calls: list[str]) -> None:
    uuid = (await api.node())["uuid"]
    base = f"/v1/nodes/{uuid}"
    steps: list[tuple[str, dict[str, Any]]] = [
        ("bios.apply_configuration", {"settings": []}),
        ("bios.factory_reset", {}),
        ("bios.cache_bios_settings", {}),
        ("firmware.update", {"settings": []}),
        ("vendor.log_passthrough", {}),
    ]
    await api.force(uuid, provision_state="manageable")
    wanted = [{"interface": name.partition(".")[0], "step": name.partition(".")[2], "args": args} for name, args in steps]
    await api.ask("PUT", f"{base}/states/provision", {"target": "clean", "clean_steps": wanted})
    await api.until(uuid, "manageable")
    assert calls == [name.partition(".")[0] for name, _ in steps]
    calls.clear()
    await api.ask("PUT", f"{base}/states/console", {"enabled": True})
    await api.house.engine.idle(uuid, 20)
    await api.get(f"{base}/management/indicators")
    await api.get(f"{base}/management/indicators/led@system")
    await api.ask("POST", f"{base}/vendor_passthru/third_method_sync", {"bar": "x"})
    assert calls == ["console", "management", "management", "vendor"]


@pytest.mark.parametrize("kind", INTERFACES)
async def test_every_delay_is_a_setting(kind: str) -> None:
    await FakeHardware(Fake()).call(Node(driver="fake-hardware"), kind)


async def test_failures_come_at_their_rate() -> None:
    hardware = FakeHardware(Fake(failure_rate=1.0))
    with pytest.raises(DriverError, match="failure_rate"):
        await hardware.call(Node(driver="fake-hardware"), "power")
    await hardware.call(Node(driver="fake-hardware"), "bios")


async def test_a_vendor_method_that_a_stop_cut_short_is_called_again_at_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path, settings(drain_timeout=0.01))
    entered, never = asyncio.Event(), asyncio.Event()
    quick = house.hardware.call

    async def stuck(node: Node, kind: str) -> None:
        entered.set()
        await never.wait()

    async with house.open():
        node = await house.add(driver="fake-hardware")
        house.hardware.call = stuck  # type: ignore[method-assign]
        door = Hardware(house.store, house.registry(), house.engine, house.settings)
        assert await door.call_vendor(node.uuid, "second_method", "POST", {"bar": "kazoo"}, SYSTEM) == (True, None)
        await entered.wait()
    house.hardware.call = quick  # type: ignore[method-assign]
    async with house.open():
        await house.until(node.uuid, node.provision_state)
        (workflow,) = house.workflows(node.uuid)
        assert workflow.state is WorkflowState.DONE
        assert workflow.steps[0].args == {"method": "second_method", "args": {"bar": "kazoo"}}
