"""The real clients, unchanged: openstacksdk, python-ironicclient as a library, and the `baremetal` command."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
]


def base(api: Api) -> str:
    return str(api.client.make_url("")).rstrip("/")


async def test_openstacksdk_takes_a_node_through_its_life(api: Api) -> None:
    def use(url: str) -> Any:
        import openstack

        cloud = openstack.connection.Connection(auth_type="none", endpoint=url, baremetal_endpoint_override=url)
        baremetal = cloud.baremetal
        node = baremetal.create_node(driver="fake-hardware", name="sdk", resource_class="rc")
        baremetal.create_port(node_id=node.id, address="52:54:00:00:00:01")
        for verb, state in (("manage", "manageable"), ("provide", "available"), ("active", "active"), ("deleted", "available")):
            baremetal.set_node_provision_state(node, verb)
            baremetal.wait_for_nodes_provision_state([node], state, timeout=60)
        baremetal.set_node_power_state(node, "power on", wait=True, timeout=30)
        node = baremetal.update_node(node, extra={"a": 1}, retry_on_conflict=False)
        baremetal.patch_node(node, [{"op": "add", "path": "/properties/x", "value": "y"}])
        baremetal.set_node_traits(node, ["CUSTOM_A"])
        baremetal.set_node_maintenance(node, reason="r")
        baremetal.unset_node_maintenance(node)
        baremetal.set_node_boot_device(node, "pxe")
        baremetal.attach_vif_to_node(node, "11111111-2222-3333-4444-555555555555")
        validated = baremetal.validate_node(node, required=("power",))
        found = {
            "nodes": [n.name for n in baremetal.nodes(details=True)],
            "ports": [p.address for p in baremetal.ports(node=node.id)],
            "drivers": sorted(d.name for d in baremetal.drivers()),
            "conductors": [c.hostname for c in baremetal.conductors()],
            "power": validated["power"].result,
            "traits": baremetal.get_node(node.id).traits,
            "bios": baremetal.get_node_boot_device(node),
        }
        baremetal.delete_node(node)
        found["after"] = [n.name for n in baremetal.nodes()]
        cloud.close()
        return found

    found = await asyncio.to_thread(use, base(api))
    assert found["nodes"] == ["sdk"]
    assert found["ports"] == ["52:54:00:00:00:01"]
    assert found["drivers"] == ["fake-hardware", "scripted"]
    assert found["conductors"] == ["test"]
    assert found["power"] is True
    assert found["traits"] == ["CUSTOM_A"]
    assert found["after"] == []


async def test_ironicclient_negotiates_and_tells_errors(api: Api) -> None:
    def use(url: str) -> Any:
        from ironicclient import client, exc
        from keystoneauth1 import noauth, session

        ironic = client.get_client(1, session=session.Session(auth=noauth.NoAuth(endpoint=url)), os_ironic_api_version="latest")
        node = ironic.node.create(driver="fake-hardware", name="ic")
        ironic.node.set_provision_state("ic", "manage")
        ironic.node.wait_for_provision_state("ic", "manageable", timeout=30)
        ironic.node.update("ic", [{"op": "add", "path": "/extra/a.b", "value": 1}])
        errors = []
        for call in (
            lambda: ironic.node.get("nobody"),
            lambda: ironic.node.create(driver="nope"),
            lambda: ironic.node.create(driver="fake-hardware", name="ic"),
            lambda: ironic.node.set_provision_state("ic", "rebuild"),
        ):
            try:
                call()
            except (exc.ClientException, Exception) as error:
                errors.append((type(error).__name__, str(error)))
        listed = [n.name for n in ironic.node.list(detail=True, limit=0)]
        ironic.node.delete(node.uuid)
        return errors, listed

    errors, listed = await asyncio.to_thread(use, base(api))
    assert [name for name, _ in errors] == ["NotFound", "BadRequest", "Conflict", "BadRequest"]
    assert "Node nobody could not be found" in errors[0][1]
    assert listed == ["ic"]


async def test_the_command_line_provisions_and_waits(api: Api) -> None:
    command = str(Path(sys.executable).with_name("baremetal"))

    async def run(*words: str, status: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            command, "--os-auth-type", "none", "--os-endpoint", base(api), *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == status, error.decode()
        return (out or error).decode() if not status else error.decode()

    await run("node", "create", "--driver", "fake-hardware", "--name", "cli")
    await run("node", "manage", "cli", "--wait", "60")
    await run("node", "provide", "cli", "--wait", "60")
    await run("node", "deploy", "cli", "--wait", "60")
    shown = json.loads(await run("node", "show", "cli", "-f", "json"))
    assert (shown["provision_state"], shown["power_state"]) == ("active", "power on")
    assert "can not be performed" in await run("node", "provide", "cli", status=1)
    await run("node", "undeploy", "cli", "--wait", "60")
    await run("node", "delete", "cli")
