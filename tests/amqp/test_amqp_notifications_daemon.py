"""Ironic's notifications of a real daemon, read by real oslo.messaging: everything an API client does, as Ironic's objects have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.bmc import free_udp_port
from tests.support.commanding import PATIENCE
from tests.support.daemon import Api, Daemon, api
from tests.support.ironic_notices import IRONIC, Listener, hold, listening, through_ironic

pytestmark = pytest.mark.rabbit

STEPS = [{"interface": "deploy", "step": "deploy", "args": {}, "priority": 90}]
RESOURCES: list[tuple[str, str, dict[str, Any], str]] = [
    ("chassis", "chassis", {"description": "left"}, "/description"),
    ("portgroup", "portgroups", {"node_uuid": "NODE", "name": "bond", "address": "52:54:00:00:00:02"}, "/name"),
    ("port", "ports", {"address": "52:54:00:00:00:01", "node_uuid": "NODE", "name": "eth0"}, "/name"),
    ("volumeconnector", "volume/connectors", {"node_uuid": "NODE", "type": "iqn", "connector_id": "iqn.2026-11.org.x:1"}, "/connector_id"),
    (
        "volumetarget",
        "volume/targets",
        {"node_uuid": "NODE", "volume_type": "iscsi", "volume_id": "1", "boot_index": 0, "properties": {"auth_username": "hidden"}},
        "/volume_id",
    ),
    ("deploytemplate", "deploy_templates", {"name": "CUSTOM_A", "steps": STEPS}, "/name"),
    ("runbook", "runbooks", {"name": "CUSTOM_B", "steps": [{"interface": "deploy", "step": "deploy", "args": {}, "order": 1}]}, "/name"),
    ("inspectionrule", "inspection_rules", {"actions": [{"op": "log", "args": {"msg": "hidden"}}], "sensitive": True}, "/description"),
    ("allocation", "allocations", {"name": "a1", "resource_class": "none-such"}, "/name"),
]
NEW = "CUSTOM_NEW"


async def _until(client: Api, node: str, good: Callable[[dict[str, Any]], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not good(await client.node(node)):
            await asyncio.sleep(0.05)


async def _resources(client: Api, node: str) -> None:
    """Make, change and remove one of each kind."""
    for _, path, body, field in RESOURCES:
        made = await client.ask("POST", f"/v1/{path}", {key: node if value == "NODE" else value for key, value in body.items()})
        await client.ask("PATCH", f"/v1/{path}/{made['uuid']}", [{"op": "add", "path": field, "value": NEW}])
        await client.ask("DELETE", f"/v1/{path}/{made['uuid']}")


async def _power(client: Api, node: str) -> None:
    """On, off, and of a machine whose BMC does not answer."""
    for target in ("power on", "rebooting", "soft power off"):
        await client.ask("PUT", f"/v1/nodes/{node}/states/power", {"target": target})
        await _until(client, node, lambda found: found["target_power_state"] is None)
    bmc = {"ipmi_address": "127.0.0.1", "ipmi_port": free_udp_port(), "ipmi_username": "u", "ipmi_password": "hidden"}
    lost = await client.create(driver="ipmi", name="lost", driver_info=bmc)
    await client.ask("PUT", f"/v1/nodes/{lost}/states/power", {"target": "power on"})
    await _until(client, lost, lambda found: found["last_error"] is not None)


async def _lives(client: Api, node: str) -> None:
    """From enrolled to deployed and cleaned with a hold, out of service and back, and gone."""
    await client.provision(node, "manage")
    await client.wait(node, "manageable")
    await _power(client, node)
    await _resources(client, node)
    await client.provision(node, "clean", clean_steps=[{"interface": "deploy", "step": "hold"}])
    await client.wait(node, "clean hold", timeout=PATIENCE)
    await client.provision(node, "unhold")
    await client.wait(node, "manageable", timeout=PATIENCE)
    await client.provision(node, "provide")
    await client.wait(node, "available", timeout=PATIENCE)
    await client.provision(node, "active")
    await client.wait(node, "active", timeout=PATIENCE)
    await client.ask("PUT", f"/v1/nodes/{node}/maintenance", {"reason": "fan"})
    await client.ask("DELETE", f"/v1/nodes/{node}/maintenance")
    await client.provision(node, "deleted")
    await client.wait(node, "available", timeout=PATIENCE)
    await client.ask("PATCH", f"/v1/nodes/{node}", [{"op": "add", "path": "/extra/x", "value": 1}])
    await client.ask("DELETE", f"/v1/nodes/{node}")


async def test_what_clients_do_is_told_as_ironic_would(tmp_path: Path, url: str) -> None:
    settings = {
        "amqp.url": url,
        "amqp.retry_delay": 0.05,
        "amqp.publish": "false",
        "amqp.notifications": "true",
        "drivers.enabled_hardware_types": "fake-hardware,ipmi",
        "drivers.ipmi.login_timeout": 0.2,
        "conductor.retry_delay": 0.1,
    }
    async with Daemon(tmp_path, settings) as daemon, listening(url) as listener:
        await daemon.start()
        async with api(daemon) as client:
            node = await client.create(driver="fake-hardware", name="n1", resource_class="blue")
            await _lives(client, node)
            await listener.until("node.delete.end", "node.power_set.error")
        await daemon.stop()
        daemon.assert_clean()
    hold(listener.got)
    if IRONIC.exists():
        through_ironic(listener.got)
    assert "hidden" not in str(listener.got)
    for word, _, _, field in RESOURCES:
        for action in ("create", "update", "delete"):
            for status in ("start", "end"):
                told = listener.of(f"{word}.{action}.{status}")
                assert len(told) == 1, (word, action, status)
        assert listener.of(f"{word}.delete.end")[0][field[1:]] == NEW, "of what is gone is told as it was last"
    _hold_node(listener)


def _hold_node(listener: Listener) -> None:
    moves = [
        (one["event_type"].rpartition(".")[2], data["event"], data["previous_provision_state"], data["provision_state"])
        for one in listener.got
        for data in [one["payload"]["ironic_object.data"]]
        if ".provision_set." in one["event_type"] and data["name"] == "n1"
    ]
    assert all(before[3] == after[2] for before, after in pairwise(moves)), moves
    assert moves[:2] == [("start", "manage", "enroll", "verifying"), ("end", "done", "verifying", "manageable")]
    held = [move for move in moves if "clean hold" in move]
    assert held == [("end", "hold", "cleaning", "clean hold"), ("start", "unhold", "clean hold", "clean wait")]
    assert ("start", "deploy", "available", "deploying") in moves
    assert ("end", "done", "deploying", "active") in moves
    assert moves[-1] == ("end", "done", "cleaning", "available")
    asked = [data["to_power"] for data in listener.of("node.power_set.start") if data["name"] == "n1"]
    ended = [(data["to_power"], data["power_state"]) for data in listener.of("node.power_set.end")]
    assert asked[:3] == ["power on", "rebooting", "soft power off"]
    assert ended[:3] == [("power on", "power on"), ("rebooting", "power on"), ("soft power off", "power off")]
    # the deployment and its undoing
    assert ended[3:] == [("power on", "power on"), ("power off", "power off")]
    [failed] = listener.of("node.power_set.error")
    assert (failed["name"], failed["to_power"], failed["target_power_state"]) == ("lost", "power on", None)
    corrected = [(data["from_power"], data["power_state"]) for data in listener.of("node.power_state_corrected.success")]
    assert corrected == [(None, "power off")]  # by verification
    service = [(data["maintenance"], data["maintenance_reason"]) for data in listener.of("node.maintenance_set.end")]
    assert service == [(True, "fan"), (False, None)]
    assert len(listener.of("node.maintenance_set.start")) == 2
    assert listener.of("node.delete.start")[0]["driver"] == "fake-hardware"
