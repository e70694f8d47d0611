"""The real clients, unchanged, against what fake-hardware can and cannot: openstacksdk and python-ironicclient as a library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import Api

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


def base(api: Api) -> str:
    return str(api.client.make_url("")).rstrip("/")


async def settled(api: Api, uuid: str, use: Callable[[], Any]) -> Any:
    """What `use` returns, once nothing drives the node any more."""
    found = await asyncio.to_thread(use)
    assert await api.house.engine.idle(uuid, 20)
    return found


async def test_openstacksdk(api: Api) -> None:
    def connect(url: str) -> Any:
        import openstack

        cloud = openstack.connection.Connection(auth_type="none", endpoint=url, baremetal_endpoint_override=url)
        return cloud, cloud.baremetal

    uuid = (await api.node(name="n1"))["uuid"]
    cloud, baremetal = await asyncio.to_thread(connect, base(api))
    try:
        methods = await settled(api, uuid, lambda: list(baremetal.list_node_vendor_passthru(uuid)))
        assert "third_method_sync" in methods
        assert (
            await settled(api, uuid, lambda: baremetal.call_node_vendor_passthru(uuid, "POST", "third_method_sync", {"bar": "meow"}))
        ).json()
        await settled(api, uuid, lambda: baremetal.call_node_vendor_passthru(uuid, "POST", "second_method", {"bar": "kazoo"}))
        await settled(api, uuid, lambda: baremetal.enable_node_console(uuid))
        assert await settled(api, uuid, lambda: baremetal.get_node_console(uuid)) == {"console_enabled": True, "console_info": {}}
        await settled(api, uuid, lambda: baremetal.disable_node_console(uuid))
        await settled(api, uuid, lambda: baremetal.set_node_boot_mode(uuid, "uefi"))
        assert "set_boot_mode" in (api.house.node(uuid).last_error or "")
        await settled(api, uuid, lambda: baremetal.set_node_secure_boot(uuid, True))
        assert "set_secure_boot_state" in (api.house.node(uuid).last_error or "")
        assert (await settled(api, uuid, lambda: baremetal.list_node_firmware(uuid))) is not None
        await settled(api, uuid, lambda: baremetal.attach_vmedia_to_node(uuid, "cdrom", "http://127.0.0.1/image.iso"))
        assert "attach_virtual_media" in (api.house.node(uuid).last_error or "")
        await settled(api, uuid, lambda: baremetal.detach_vmedia_from_node(uuid))
        assert "detach_virtual_media" in (api.house.node(uuid).last_error or "")
        assert not list(await settled(api, uuid, lambda: baremetal.list_driver_vendor_passthru("fake-hardware")))
    finally:
        cloud.close()


async def test_ironicclient(api: Api) -> None:
    def connect(url: str) -> Any:
        from ironicclient import client
        from keystoneauth1 import noauth, session

        return client.get_client("1", session=session.Session(auth=noauth.NoAuth(endpoint=url)), os_ironic_api_version="1.115")

    uuid = (await api.node(name="n1"))["uuid"]
    ironic = await asyncio.to_thread(connect, base(api))
    node, driver = ironic.node, ironic.driver
    assert "second_method" in await settled(api, uuid, lambda: node.get_vendor_passthru_methods(uuid))
    call = {"node_id": uuid, "method": "second_method", "args": {"bar": "kazoo"}, "http_method": "POST"}
    await settled(api, uuid, lambda: node.vendor_passthru(**call))
    await settled(api, uuid, lambda: node.set_console_mode(uuid, True))
    assert (await settled(api, uuid, lambda: node.get_console(uuid)))["console_enabled"] is True
    await settled(api, uuid, lambda: node.set_target_raid_config(uuid, {"logical_disks": [{"raid_level": "1", "size_gb": "MAX"}]}))
    await settled(api, uuid, lambda: node.set_boot_mode(uuid, "bios"))
    await settled(api, uuid, lambda: node.set_secure_boot(uuid, "off"))
    assert len(await settled(api, uuid, lambda: driver.raid_logical_disk_properties("fake-hardware"))) == 10
    await api.force(uuid, provision_state="manageable")
    step = {"interface": "bios", "step": "apply_configuration", "args": {"settings": [{"name": "a", "value": "1"}]}}
    await settled(api, uuid, lambda: node.set_provision_state(uuid, "clean", cleansteps=[step]))
    (setting,) = await settled(api, uuid, lambda: node.list_bios_settings(uuid))
    assert (setting["name"], setting["value"]) == ("a", "1")
    assert (await settled(api, uuid, lambda: node.get_bios_setting(uuid, "a")))["value"] == "1"
    assert await settled(api, uuid, lambda: node.list_firmware_components(uuid)) == []
