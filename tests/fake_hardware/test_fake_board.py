"""Lights, boot mode, secure boot, virtual media, console and wanted RAID: of fake-hardware, and of hardware that can all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from metald.drivers.base import NodeContext, StepContext
from metald.drivers.board import Indicator
from metald.drivers.fake.console import FakeConsole
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.fake.management import FakeManagement
from metald.errors import BmcUnreachable, Invalid
from metald.model import BootMode, Node
from tests.support.api import Api
from tests.support.swap import swap


class Able(FakeManagement):
    """Management that can everything."""

    def __init__(self, hardware: FakeHardware) -> None:
        super().__init__(hardware)
        self.done: list[Any] = []

    async def set_indicator_state(self, ctx: NodeContext, component: str, name: str, state: str) -> None:
        if state not in ("on", "off"):
            raise Invalid(f"Invalid state {state}.")
        self.done.append((component, name, state))

    async def set_boot_mode(self, ctx: StepContext, mode: BootMode) -> None:
        self.done.append(mode)

    async def set_secure_boot(self, ctx: StepContext, on: bool) -> None:
        self.done.append(on)

    async def get_virtual_media(self, ctx: NodeContext) -> Any:
        return [{"media": "cdrom"}]

    async def attach_virtual_media(self, ctx: StepContext, device: str, url: str, source: str) -> None:
        self.done.append((device, url, source))

    async def detach_virtual_media(self, ctx: StepContext, devices: Sequence[str]) -> None:
        self.done.append(list(devices))


class DeadConsole(FakeConsole):
    """A console behind a BMC that does not answer."""

    tries = 0

    async def start(self, ctx: StepContext) -> None:
        self.tries += 1
        raise BmcUnreachable("The BMC does not answer.")


@pytest.fixture
def able(api: Api) -> Able:
    management = Able(api.house.hardware)
    swap(api, management)
    return management


async def idle(api: Api, uuid: str) -> Node:
    assert await api.house.engine.idle(uuid, 20)
    return api.house.node(uuid)


async def test_lights_are_listed_and_shown(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/management/indicators"
    chassis, system = (await api.get(path))["indicators"]
    assert (chassis["name"], chassis["component"], chassis["readonly"], chassis["states"]) == (
        "led-0@chassis", "chassis", True, ["off", "on"],
    )  # fmt: skip
    assert (system["name"], system["readonly"], system["states"]) == ("led@system", False, ["blinking", "off", "on"])
    assert system["links"][0]["href"].endswith(f"{path}/led@system")
    for name in ("led-0@chassis", "led@system", "led-0%40chassis"):
        assert await api.get(f"{path}/{name}") == {"state": "on"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("led@chassis", "Invalid indicator led specified."),
        ("x@disk", "Invalid component disk specified."),
        ("@", "Invalid component  specified."),
        ("led", 'Malformed indicator name "led"'),
    ],
)
async def test_a_light_that_is_not_there_is_refused(api: Api, name: str, text: str) -> None:
    uuid = (await api.node())["uuid"]
    found = await api.ask("GET", f"/v1/nodes/{uuid}/management/indicators/{name}")
    assert found.status == 400
    assert text in found.fault


async def test_no_light_of_fake_hardware_can_be_changed(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/management/indicators"
    for name in ("led-0@chassis", "led@system"):
        found = await api.ask("PUT", f"{path}/{name}", {"state": "on"})
        assert (found.status, found.fault) == (
            400,
            "Driver fake-hardware does not support set_indicator_state (disabled or not implemented).",
        )
    assert (await api.ask("PUT", f"{path}/led@system", {})).status == 400
    assert (await api.ask("PUT", f"{path}/led@system", {"state": 5})).status == 400


async def test_a_light_that_can_be_changed_is_changed_at_once(api: Api, able: Able) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/management/indicators/led@system"
    assert (await api.ask("PUT", path, {"state": "off"})).status == 204
    assert (await api.ask("PUT", path, {"state": "purple"})).status == 400
    assert able.done == [("system", "led", "off")]
    await api.force(uuid, reservation="test")
    assert (await api.ask("PUT", path, {"state": "on"})).status == 409
    assert await api.get(path) == {"state": "on"}


async def test_management_that_knows_no_lights_says_so(api: Api) -> None:
    uuid = (await api.node(management_interface="noop"))["uuid"]
    for path, what in (("indicators", "get_supported_indicators"), ("indicators/led@system", "get_indicator_state")):
        found = await api.ask("GET", f"/v1/nodes/{uuid}/management/{path}")
        assert (found.status, found.fault) == (400, f"Driver fake-hardware does not support {what} (disabled or not implemented).")


async def test_boot_mode_and_secure_boot_of_fake_hardware_fail_in_last_error(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    rows: list[tuple[str, Any, str]] = [
        ("boot_mode", "uefi", "Failed to change boot mode to 'uefi': Driver fake-hardware does not support set_boot_mode"),
        ("secure_boot", True, "Failed to change secure_boot state to 'True': Driver fake-hardware does not support set_secure_boot_state"),
    ]
    for what, target, text in rows:
        found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/{what}", {"target": target})
        assert found.status == 202
        assert found.headers["Location"].endswith(f"/v1/nodes/{uuid}/states")
        node = await idle(api, uuid)
        assert (node.last_error or "").startswith(text)
        assert (node.boot_mode, node.secure_boot, node.reservation, node.maintenance) == (None, None, None, False)
        assert node.provision_state == "enroll"


async def test_boot_mode_and_secure_boot_that_can_be_set_are_shown(api: Api, able: Able) -> None:
    uuid = (await api.node())["uuid"]
    await api.force(uuid, last_error="old")
    for what, target in (("boot_mode", "uefi"), ("secure_boot", "true"), ("secure_boot", 0)):
        assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/{what}", {"target": target})).status == 202
        node = await idle(api, uuid)
        assert node.last_error is None
    assert able.done == [BootMode.UEFI, True, False]
    assert (node.boot_mode, node.secure_boot) == ("uefi", False)


async def test_wrong_boot_modes_are_refused(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    rows: list[tuple[str, Any, str]] = [
        ("boot_mode", {"target": "nope"}, "Invalid boot mode nope requested for node. Allowed boot modes are: bios, uefi"),
        ("boot_mode", {"target": None}, "Invalid boot mode None"),
        ("boot_mode", {"target": 5}, "target"),
        ("boot_mode", {}, "Missing mandatory parameter: target"),
        ("secure_boot", {"target": None}, "Invalid secure_boot None"),
        ("secure_boot", {"target": "maybe"}, "Unrecognized value 'maybe'"),
        ("secure_boot", {"target": True, "x": 1}, "Unexpected arguments: x"),
    ]
    for what, body, text in rows:
        found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/{what}", body)
        assert found.status == 400, body
        assert text in found.fault
    for what, target in (("boot_mode", "uefi"), ("secure_boot", True)):
        assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/{what}", {"target": target}, version="1.75")).status == 404


async def test_a_boot_mode_is_not_changed_on_the_way_between_states(api: Api, able: Able) -> None:
    uuid = (await api.node())["uuid"]
    for state in ("adopting", "clean wait", "servicing"):
        await api.force(uuid, provision_state=state)
        found = await api.ask("PUT", f"/v1/nodes/{uuid}/states/boot_mode", {"target": "uefi"})
        assert found.status == 409
        assert f"Node is in {state} state" in found.fault
    assert able.done == []


async def test_virtual_media_of_fake_hardware(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/vmedia"
    found = await api.ask("GET", path)
    assert (found.status, found.fault) == (400, "Driver fake-hardware does not support get_virtual_media (disabled or not implemented).")
    assert (await api.ask("POST", path, {"device_type": "cdrom", "image_url": "http://a/b"})).status == 204
    assert (await idle(api, uuid)).last_error == (
        f"Could not attach device cdrom to node {uuid}: Driver fake-hardware does not support attach_virtual_media "
        "(disabled or not implemented)."
    )
    assert (await api.ask("DELETE", f"{path}?device_types=cdrom,disk")).status == 204
    assert ((await idle(api, uuid)).last_error or "").startswith(f"Could not detach device(s) cdrom, disk from node {uuid}: Driver")


async def test_virtual_media_that_can_be_attached(api: Api, able: Able) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/vmedia"
    assert await api.get(path, "1.93") == [{"media": "cdrom"}]
    image = {"device_type": "cdrom", "image_url": "https://a/b", "image_download_source": "http"}
    assert (await api.ask("POST", path, image, version="1.89")).status == 204
    await idle(api, uuid)
    assert (await api.ask("DELETE", path, version="1.89")).status == 204
    assert (await idle(api, uuid)).last_error is None
    assert able.done == [("cdrom", "https://a/b", "http"), []]


async def test_wrong_virtual_media_is_refused(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/vmedia"
    good = {"device_type": "cdrom", "image_url": "http://a/b"}
    bad: list[Any] = [
        {},
        [],
        {"device_type": "cdrom"},
        {**good, "device_type": "tape"},
        {**good, "image_url": "ftp://a/b"},
        {**good, "image_url": "b"},
        {**good, "image_url": "http://[a/b"},
        {**good, "image_url": 5},
        {**good, "image_download_source": "x"},
        {**good, "x": 1},
    ]
    for body in bad:
        assert (await api.ask("POST", path, body)).status == 400, body
    for query in ("device_types=cdrom,tape", "x=1"):
        assert (await api.ask("DELETE", f"{path}?{query}")).status == 400
    for method, version in (("GET", "1.92"), ("POST", "1.88"), ("DELETE", "1.88")):
        assert (await api.ask(method, path, good if method == "POST" else None, version=version)).status == 404


async def test_a_console_is_opened_and_closed(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/states/console"
    closed = {"console_enabled": False, "console_info": None}
    assert await api.get(path, "1.1") == closed
    await api.force(uuid, last_error="old")
    found = await api.ask("PUT", path, {"enabled": True}, version="1.1")
    assert (found.status, found.body) == (202, b"")
    assert found.headers["Location"].endswith(path)
    assert (await idle(api, uuid)).last_error is None
    assert await api.get(path) == {"console_enabled": True, "console_info": {}}
    assert (await api.get(f"/v1/nodes/{uuid}"))["console_enabled"] is True
    version = api.house.node(uuid).version
    assert (await api.ask("PUT", path, {"enabled": "on"})).status == 202
    assert api.house.node(uuid).version == version
    assert (await api.ask("PUT", f"{path}?enabled=false")).status == 202
    await idle(api, uuid)
    assert await api.get(path) == closed


async def test_wrong_console_requests_are_refused(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/states/console"
    bad: list[Any] = [{}, [], {"enabled": "maybe"}, {"enabled": True, "x": 1}, {"enabled": []}]
    for body in bad:
        assert (await api.ask("PUT", path, body)).status == 400, body
    await api.force(uuid, reservation="test")
    assert (await api.ask("PUT", path, {"enabled": True})).status == 409
    assert (await api.ask("PUT", path, {"enabled": False})).status == 202
    none = (await api.node(console_interface="no-console"))["uuid"]
    for enabled in (True, False):
        found = await api.ask("PUT", f"/v1/nodes/{none}/states/console", {"enabled": enabled})
        assert (found.status, found.fault) == (400, "Driver fake-hardware does not support console (disabled or not implemented).")
    assert (await api.get(f"/v1/nodes/{none}/states/console"))["console_info"] is None


async def test_a_console_that_cannot_be_opened_is_retried_and_told_of(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    console = DeadConsole(api.house.hardware)
    swap(api, console)
    done = asyncio.Event()
    leave = api.house.store.subscribe(lambda events: done.set() if any(e.type == "node.workflow" for e in events) else None)
    assert (await api.ask("PUT", f"/v1/nodes/{uuid}/states/console", {"enabled": True})).status == 202
    await asyncio.wait_for(done.wait(), 20)
    leave()
    node = api.house.node(uuid)
    assert node.last_error == f"Error enabling the console on node {uuid}. Reason: The BMC does not answer."
    assert (node.console_enabled, node.reservation, console.tries) == (False, None, 3)


async def test_a_wanted_raid_is_checked_and_kept_and_taken_back(api: Api) -> None:
    uuid = (await api.node())["uuid"]
    path = f"/v1/nodes/{uuid}/states/raid"
    disk = {"raid_level": "1", "size_gb": 10}
    assert (await api.ask("PUT", path, {"logical_disks": [disk]})).status == 204
    assert (await api.get(f"/v1/nodes/{uuid}"))["target_raid_config"] == {"logical_disks": [disk]}
    rows: list[tuple[Any, str]] = [
        ({"logical_disks": []}, "RAID config validation error: "),
        ({"foo": 1}, "RAID config validation error: 'logical_disks' is a required property"),
        ({"logical_disks": [{}]}, "RAID config validation error: 'raid_level' is a required property"),
        ({"logical_disks": [{**disk, "raid_level": "9"}]}, "RAID config validation error: '9' is not one of ['JBOD', "),
        ({"logical_disks": [{**disk, "size_gb": -1}]}, "RAID config validation error: "),
        ({"logical_disks": [{**disk, "physical_disks": ["a"]}]}, "'controller' is a dependency of 'physical_disks'"),
        ({"logical_disks": [{**disk, "is_root_volume": True}] * 2}, "cannot have more than one root volume. 2 root volumes"),
        ([], "RAID config"),
    ]
    for body, text in rows:
        found = await api.ask("PUT", path, body)
        assert found.status == 400, body
        assert text in found.fault
    assert (await api.ask("PUT", path, {})).status == 204
    assert (await api.get(f"/v1/nodes/{uuid}"))["target_raid_config"] == {}
    await api.force(uuid, reservation="test")
    assert (await api.ask("PUT", path, {})).status == 409


async def test_raid_without_a_raid_interface(api: Api) -> None:
    uuid = (await api.node(raid_interface="no-raid"))["uuid"]
    path = f"/v1/nodes/{uuid}/states/raid"
    found = await api.ask("PUT", path, {"logical_disks": [{"raid_level": "1", "size_gb": "MAX"}]})
    assert (found.status, found.fault) == (404, "Driver fake-hardware does not support raid (disabled or not implemented).")
    assert (await api.ask("PUT", path, {})).status == 204
    assert (await api.ask("PUT", path, {}, version="1.11")).status == 406
    properties = await api.get("/v1/drivers/fake-hardware/raid/logical_disk_properties", "1.12")
    assert len(properties) == 10
    assert properties["raid_level"].endswith("'5+0' and '6+0'. Required.")
    assert (await api.ask("GET", "/v1/drivers/fake-hardware/raid/logical_disk_properties", version="1.11")).status == 406
    assert (await api.ask("GET", "/v1/drivers/nope/raid/logical_disk_properties")).status == 404


async def test_absent_interfaces_say_so_when_validated(api: Api) -> None:
    kinds = ("bios", "console", "firmware", "inspect", "raid", "rescue")
    uuid = (await api.node(**{f"{kind}_interface": f"no-{kind}" for kind in kinds}))["uuid"]
    found = await api.get(f"/v1/nodes/{uuid}/validate")
    for kind in kinds:
        assert found[kind] == {"result": False, "reason": f"Driver fake-hardware does not support {kind} (disabled or not implemented)."}
    full = await api.get(f"/v1/nodes/{(await api.node())['uuid']}/validate")
    assert all(result == {"result": True} for result in full.values())


def test_a_light_is_called_by_name_and_component() -> None:
    assert Indicator("chassis", "led-0").label == "led-0@chassis"
