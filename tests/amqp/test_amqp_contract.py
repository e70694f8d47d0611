"""Real traffic of a real daemon against the AsyncAPI document that it serves: every event, every command, every reply."""

from __future__ import annotations

import asyncio
import json
from itertools import cycle
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


class Sender:
    """Sends commands, in each of the forms in turn, and holds them and their replies to the document."""

    def __init__(self, contract: Contract, producer: Producer) -> None:
        self._contract = contract
        self._producer = producer
        self._forms = cycle((self._structured, self._binary, self._plain))

    async def __call__(self, verb: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
        await next(self._forms)(verb, id_, data)
        return await self.reply()

    async def reply(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return self._contract.check_reply(await self._producer.inbox.get())

    async def _structured(self, verb: str, id_: str, data: dict[str, Any]) -> None:
        body = {"specversion": "1.0", "id": id_, "source": "/contract", "type": f"metald.command.{verb}", "data": data}
        self._contract.check(f"command.{verb}", body, {})
        await self._producer.send(verb, id_, json.dumps(body).encode(), content_type="application/cloudevents+json")

    async def _binary(self, verb: str, id_: str, data: dict[str, Any]) -> None:
        attributes = {"specversion": "1.0", "id": id_, "source": "/contract", "type": verb, "notbefore": "2026-01-01T00:00:00Z"}
        headers = {f"cloudEvents:{name}": value for name, value in attributes.items()}
        self._contract.check(f"command.{verb}.binary", data, headers)
        await self._producer.send(verb, id_, data, headers=headers)

    async def _plain(self, verb: str, id_: str, data: dict[str, Any]) -> None:
        headers = {"expirytime": "2099-01-01T00:00:00Z"}
        self._contract.check(f"command.{verb}.plain", data, headers)
        await self._producer.send(verb, id_, data, headers=headers)


async def _dead(contract: Contract, producer: Producer) -> None:
    """Hold what was put aside to the document."""
    queue = await producer.channel.get_queue("metald.commands.dead")
    async with queue.iterator(no_ack=True) as messages, asyncio.timeout(PATIENCE):
        letter = await anext(messages)
    assert (letter.exchange, letter.routing_key) == ("metald.commands.dead", "node.explode")
    contract.check("command.dead", json.loads(letter.body), letter.headers)


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
            send = Sender(contract, producer)
            node = (await send("node.create", "1", {"name": "n1", "driver": "fake-hardware"}))["node"]
            for id_, verb, more in (("m", "node.manage", {}), ("p", "node.power", {"target": "power off"})):
                assert (await send(verb, id_, {"node": "n1", **more}))["status"] == "accepted"
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
                reply = await send(verb, str(number), {"node": "n1", **more})
                assert reply["status"] == "accepted", reply
            assert (await send("node.deploy", "99", {"node": "nobody"}))["status"] == "refused"
            await producer.send("node.explode", "100", {})
            assert (await send.reply())["status"] == "refused"
            await _dead(contract, producer)
            last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            async with asyncio.timeout(PATIENCE):
                await contract.follow(inbox, lambda message: message.message_id == str(last))
        daemon.assert_clean()
    wanted = {f"{kind}.{what}" for kind, *_ in CRUD for what in ("create", "update", "delete")}
    wanted |= {"node.create", "node.update", "node.delete", "node.provision", "node.step", "node.workflow", "node.power"}
    wanted |= {"node.maintenance", "node.boot_device", "command.rejected", "command.dead"}
    assert wanted - contract.seen == set()
