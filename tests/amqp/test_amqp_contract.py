"""Real traffic of a real daemon against the AsyncAPI document that it serves: every event, every command, every reply."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from tests.support.commanding import PATIENCE, Place, Producer, producing
from tests.support.contract import Contract
from tests.support.daemon import Daemon, api

pytestmark = pytest.mark.rabbit

STEPS = [{"interface": "deploy", "step": "deploy", "args": {}, "priority": 90}]
CRUD: list[tuple[str, str, dict[str, Any], str]] = [
    ("chassis", "chassis", {"description": "left"}, "/description"),
    ("port", "ports", {"address": "52:54:00:00:00:01", "node_uuid": "NODE"}, "/extra/x"),
    ("portgroup", "portgroups", {"node_uuid": "NODE", "name": "bond"}, "/extra/x"),
    (
        "volume_connector",
        "volume/connectors",
        {"node_uuid": "NODE", "type": "iqn", "connector_id": "iqn.2026-11.org.x:1"},
        "/extra/x",
    ),
    (
        "volume_target",
        "volume/targets",
        {"node_uuid": "NODE", "volume_type": "iscsi", "volume_id": "1", "boot_index": 0},
        "/extra/x",
    ),
    ("deploy_template", "deploy_templates", {"name": "CUSTOM_A", "steps": STEPS}, "/extra/x"),
    ("runbook", "runbooks", {"name": "CUSTOM_B", "steps": [{"interface": "deploy", "step": "deploy", "args": {}, "order": 1}]}, "/extra/x"),
    ("inspection_rule", "inspection_rules", {"actions": [{"op": "log", "args": {"msg": "x"}}]}, "/description"),
    ("allocation", "allocations", {"name": "a1", "resource_class": "none-such"}, "/name"),
]


async def _command(contract: Contract, producer: Producer, verb: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    body = {"specversion": "1.0", "id": id_, "source": "/contract", "type": f"metald.command.{verb}", "data": data}
    contract.check(f"command.{verb}", body)
    await producer.send(verb, id_, json.dumps(body).encode(), content_type="application/cloudevents+json")
    async with asyncio.timeout(PATIENCE):
        reply: dict[str, Any] = json.loads((await producer.inbox.get()).body)
    contract.check("command.reply", reply)
    return reply


async def test_real_traffic_is_as_the_document_says(tmp_path: Path, place: Place) -> None:
    settings = {
        "amqp.url": place.url, "amqp.retry_delay": 0.05, "drivers.enabled_hardware_types": "fake-hardware",
    }  # fmt: skip
    connection = await aio_pika.connect(place.url)
    async with connection, Daemon(tmp_path, settings) as daemon:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        inbox = await channel.declare_queue("all", durable=True)
        await inbox.bind(exchange, "#")
        await daemon.start()
        async with asyncio.timeout(PATIENCE):  # the queue of commands is made in a moment
            while True:
                try:
                    await (await connection.channel()).get_queue(place.exchange)
                    break
                except aio_pika.exceptions.AMQPError:
                    await asyncio.sleep(0.05)
        async with api(daemon) as client, producing(place) as producer:
            contract = Contract(await client.ask("GET", "/asyncapi.json"))
            node = (await _command(contract, producer, "node.create", "1", {"name": "n1", "driver": "fake-hardware"}))["node"]
            for id_, verb, more in (("m", "node.manage", {}), ("p", "node.power", {"target": "power off"})):
                assert (await _command(contract, producer, verb, id_, {"node": "n1", **more}))["status"] == "accepted"
            async with asyncio.timeout(PATIENCE):  # volumes are for machines that are off
                while (await client.ask("GET", "/v1/nodes/n1"))["power_state"] != "power off":
                    await asyncio.sleep(0.05)
            for kind, path, body, field in CRUD:
                made = await client.ask("POST", f"/v1/{path}", {key: node if value == "NODE" else value for key, value in body.items()})
                await client.ask("PATCH", f"/v1/{path}/{made['uuid']}", [{"op": "add", "path": field, "value": "new"}])
                await client.ask("DELETE", f"/v1/{path}/{made['uuid']}")
                contract.seen.add(f"made {kind}")
            many: list[tuple[str, dict[str, Any]]] = [
                ("node.provide", {}), ("node.deploy", {}), ("node.power", {"target": "rebooting"}),
                ("node.maintenance", {"reason": "fan"}), ("node.maintenance", {"maintenance": False}),
                ("node.update", {"patch": [{"op": "add", "path": "/extra/x", "value": 1}]}),
                ("node.boot_device", {"boot_device": "pxe"}), ("node.undeploy", {}), ("node.manage", {}), ("node.delete", {}),
            ]  # fmt: skip
            for number, (verb, more) in enumerate(many, 2):
                reply = await _command(contract, producer, verb, str(number), {"node": "n1", **more})
                assert reply["status"] == "accepted", reply
            assert (await _command(contract, producer, "node.deploy", "99", {"node": "nobody"}))["status"] == "refused"
            await producer.send("node.explode", "100", {})
            contract.check("command.reply", json.loads((await asyncio.wait_for(producer.inbox.get(), PATIENCE)).body))
            last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            async with asyncio.timeout(PATIENCE):
                await contract.follow(inbox, lambda message: message.message_id == str(last))
        daemon.assert_clean()
    wanted = {f"{kind}.{what}" for kind, *_ in CRUD for what in ("create", "update", "delete")}
    wanted |= {"node.create", "node.update", "node.delete", "node.provision", "node.step", "node.workflow", "node.power"}
    wanted |= {"node.maintenance", "node.boot_device", "command.rejected"}
    assert wanted - contract.seen == set()
