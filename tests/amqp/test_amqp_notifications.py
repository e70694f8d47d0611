"""Ironic's notifications, read by real oslo.messaging and compared with Ironic's own objects."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.notifications import PAYLOADS
from metald.amqp.service import Broker
from metald.config import Settings, StoreSettings
from metald.model import Chassis, Event, Node, Port
from metald.store.changes import Change
from metald.store.store import Store
from tests.amqp.conftest import settings
from tests.support.commanding import PATIENCE

_IRONIC = Path("/tmp/ironic-venv/bin/python")
_FIELDS = """
import importlib, json
found = {}
for name in "node port portgroup chassis allocation deploy_template runbook volume_connector volume_target inspection_rule".split():
    module = importlib.import_module("ironic.objects." + name)
    for key, value in vars(module).items():
        if key.endswith("Payload") and getattr(value, "__module__", "") == module.__name__:
            found[key] = [value.VERSION, sorted(value.fields)]
print(json.dumps(found))
"""


@pytest.mark.skipif(not _IRONIC.exists(), reason="no Ironic to compare with")
def test_payloads_have_the_fields_and_versions_of_ironics() -> None:
    output = subprocess.run([_IRONIC, "-W", "ignore", "-c", _FIELDS], check=True, capture_output=True, cwd="/tmp").stdout
    theirs = json.loads(output)
    assert {name: [version, sorted(fields)] for name, (version, fields) in PAYLOADS.items()} == theirs


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(StoreSettings(), tmp_path)
    yield opened
    await opened.close()


@pytest.mark.rabbit
async def test_real_oslo_messaging_reads_them(store: Store, url: str) -> None:
    amqp = settings(url, notifications=True, publish=False)
    broker = Broker(Settings(amqp=amqp), store, "here")
    await broker.prepare()
    node = Node(driver="ipmi", name="n1", driver_info={"ipmi_password": "s3cret"}, provision_state="available")  # type: ignore[arg-type]
    port = Port(node_uuid=node.uuid, address="aa:bb:cc:dd:ee:ff")
    chassis = Chassis(description="left")
    tell = [
        Event(type="node.create", node_uuid=node.uuid, data={"driver": "ipmi"}),
        Event(type="port.create", node_uuid=node.uuid, subject=port.uuid),
        Event(type="chassis.create", subject=chassis.uuid),
        _moved(node, "deploy", "available", "deploying", "active"),
        _moved(node, "wait", "deploying", "wait call-back", "active"),
        _moved(node, "fail", "wait call-back", "deploy failed", "active"),
        _moved(node, "done", "deploying", "active", None),
        Event(type="node.maintenance", node_uuid=node.uuid, data={"maintenance": True, "reason": "fan"}),
        Event(type="node.power", node_uuid=node.uuid, data={"target": "power on", "from": "power off"}),
        Event(type="node.power_seen", node_uuid=node.uuid, data={"from": "power off", "to": "power on"}),
        Event(type="node.power_seen", node_uuid=node.uuid, data={"from": "power on", "to": "power off", "workflow": "w"}),
        Event(type="node.console", node_uuid=node.uuid, data={"enabled": True}),
        Event(type="node.console", node_uuid=node.uuid, severity="ERROR", data={"enabled": False, "error": "gone"}),
        Event(type="node.heartbeat", node_uuid=node.uuid, data={}),
    ]
    command = (sys.executable, "-W", "ignore", "-m", "tests.support.oslo_listener", url.replace("amqp://", "rabbit://"))
    listener = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    task = asyncio.create_task(broker.run())
    try:
        assert listener.stdout is not None
        await listener.stdout.readline()
        await store.commit(Change(save=[node, port, chassis], events=tell))
        got: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE):
            while len(got) < 17:
                got.append(json.loads(await listener.stdout.readline()))
    finally:
        listener.kill()
        await listener.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    by_type = {one["event_type"]: one for one in got}
    assert sorted(by_type) == sorted(
        [
            *(f"baremetal.{word}.create.{status}" for word in ("node", "port", "chassis") for status in ("start", "end")),
            *(f"baremetal.node.provision_set.{status}" for status in ("start", "success", "error", "end")),
            "baremetal.node.maintenance_set.start",
            "baremetal.node.maintenance_set.end",
            "baremetal.node.power_set.start",
            "baremetal.node.power_state_corrected.success",
            "baremetal.node.console_set.start",
            "baremetal.node.console_set.end",
            "baremetal.node.console_restore.error",
        ]
    )
    for one in got:
        payload = one["payload"]
        version, fields = PAYLOADS[payload["ironic_object.name"]]
        assert payload["ironic_object.version"] == version
        assert payload["ironic_object.namespace"] == "ironic"
        assert sorted(payload["ironic_object.data"]) == sorted(fields)
        assert one["publisher_id"] == "ironic-conductor.here"
        assert one["priority"] == ("ERROR" if one["event_type"].endswith(".error") else "INFO")
    assert "s3cret" not in json.dumps(got)
    created = by_type["baremetal.node.create.end"]["payload"]["ironic_object.data"]
    assert (created["name"], created["driver_info"]) == ("n1", {"ipmi_password": "******"})
    moved = by_type["baremetal.node.provision_set.end"]["payload"]["ironic_object.data"]
    assert (moved["provision_state"], moved["previous_provision_state"], moved["event"]) == ("active", "deploying", "done")
    assert by_type["baremetal.port.create.end"]["payload"]["ironic_object.data"]["address"] == "aa:bb:cc:dd:ee:ff"
    corrected = by_type["baremetal.node.power_state_corrected.success"]["payload"]["ironic_object.data"]
    assert (corrected["from_power"], corrected["power_state"]) == ("power off", "power on")


def _moved(node: Node, event: str, before: str, after: str, target: str | None) -> Event:
    data = {"event": event, "from": before, "to": after, "target": target, "previous_target": "active"}
    return Event(type="node.provision", node_uuid=node.uuid, data=data)
