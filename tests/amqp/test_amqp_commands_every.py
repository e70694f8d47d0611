"""Every type of command, alone and many at once, in each form that a message may have, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from metald.model import Node, Port
from metald.model.commandtypes import COMMAND_TYPES
from tests.support.commanding import Place, Producer, Site, commanded, producing

pytestmark = pytest.mark.rabbit

Send = Callable[[Producer, str, str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def _structured(producer: Producer, verb: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": id_, "source": "/test", "type": f"metald.command.{verb}", "data": data}
    return await producer.ask(verb, id_, json.dumps(event).encode(), content_type="application/cloudevents+json")


async def _binary(producer: Producer, verb: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    attributes = {"specversion": "1.0", "id": id_, "source": "/test", "type": verb}
    return await producer.ask(verb, "not the id", data, headers={f"cloudEvents:{name}": value for name, value in attributes.items()})


async def _plain(producer: Producer, verb: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    return await producer.ask(verb, id_, data)


FORMS: tuple[Send, ...] = (_structured, _binary, _plain)
MANY = 3
NAMES = [f"n{i}" for i in range(MANY)]
PATCH = [{"op": "add", "path": "/extra/rack", "value": 7}]

WAY: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("node.manage", "enroll", {}, "manageable"),
    ("node.inspect", "manageable", {}, "manageable"),
    ("node.clean", "manageable", {"clean_steps": [{"interface": "deploy", "step": "wipe"}]}, "manageable"),
    ("node.provide", "manageable", {}, "available"),
    ("node.deploy", "available", {}, "active"),
    ("node.rebuild", "active", {}, "active"),
    ("node.service", "active", {"service_steps": [{"interface": "power", "step": "reboot"}]}, "active"),
    ("node.rescue", "active", {"rescue_password": "secret-word"}, "rescue"),
    ("node.unrescue", "rescue", {}, "active"),
    ("node.undeploy", "active", {}, "available"),
    ("node.adopt", "manageable", {}, "active"),
    ("node.abort", "clean hold", {}, "clean failed"),
    ("node.unhold", "clean hold", {}, "clean wait"),
    ("node.power", "manageable", {"target": "power on"}, "manageable"),
    ("node.boot_device", "manageable", {"boot_device": "pxe"}, "manageable"),
    ("node.maintenance", "manageable", {"reason": "fan"}, "manageable"),
    ("node.update", "manageable", {"patch": PATCH}, "manageable"),
    ("node.delete", "manageable", {}, "gone"),
)
"""Every verb of nodes that exist: from which state, with which arguments, and where it leads."""


def test_no_type_is_left_out() -> None:
    assert {verb for verb, *_ in WAY} | {"node.create", "port.create", "port.update", "port.delete"} == set(COMMAND_TYPES)


async def _fleet(site: Site, verb: str, state: str) -> list[str]:
    uuids = []
    for name in NAMES:
        more = (
            {"driver": "scripted"} if verb in ("node.clean", "node.service") else {"inspect_interface": "fake", "rescue_interface": "fake"}
        )
        made = await site.api.node(name=name, **more)
        await site.api.force(made["uuid"], provision_state=state, power_state="power off", instance_info={"image_source": "x"})
        uuids.append(made["uuid"])
    return uuids


@pytest.mark.parametrize(("verb", "state", "more", "to"), WAY, ids=[verb for verb, *_ in WAY])
async def test_a_verb_of_nodes(tmp_path: Path, place: Place, verb: str, state: str, more: dict[str, Any], to: str) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        uuids = await _fleet(site, verb, state)
        send = FORMS[[one for one, *_ in WAY].index(verb) % 3]
        alone = await send(producer, verb, "alone", {"node": uuids[0], **more})
        await _come(site, uuids[:1], to)
        many = await send(producer, verb, "many", {"nodes": uuids[1:], **more})
        await _come(site, uuids[1:], to)
        assert (alone["status"], many["status"], many["accepted"]) == ("accepted", "accepted", MANY - 1), (alone, many)
        items = await send(producer, verb, "items", {"items": [{"node": "nobody", **more}, {"node": "none", **more}]})
        assert [part["code"] for part in items["parts"]] == [404, 404]


async def _come(site: Site, uuids: list[str], state: str) -> None:
    nodes = site.api.house.store.table(Node)
    for uuid in uuids:
        if state == "gone":
            assert nodes.get(uuid) is None
        else:
            await site.api.until(uuid, state)


@pytest.mark.parametrize("send", FORMS)
async def test_nodes_and_ports_come_and_go(tmp_path: Path, place: Place, send: Send) -> None:
    async with commanded(tmp_path, place) as site, producing(place) as producer:
        nodes, ports = site.api.house.store.table(Node), site.api.house.store.table(Port)
        made = await send(producer, "node.create", "1", {"name": "alone", "driver": "fake-hardware"})
        assert nodes.get(made["node"]) is not None
        many = await send(producer, "node.create", "2", {"items": [{"name": name, "driver": "fake-hardware"} for name in NAMES]})
        assert many["accepted"] == MANY
        uuids = [part["node"] for part in many["parts"]]
        port = await send(producer, "port.create", "3", {"node_uuid": made["node"], "address": "52:54:00:00:00:ff"})
        items = [{"node_uuid": uuid, "address": f"52:54:00:00:00:0{i}"} for i, uuid in enumerate(uuids)]
        some = [part["port"] for part in (await send(producer, "port.create", "4", {"items": items}))["parts"]]
        assert (await send(producer, "port.update", "5", {"port": port["port"], "patch": PATCH}))["status"] == "accepted"
        assert (await send(producer, "port.update", "6", {"ports": some, "patch": PATCH}))["accepted"] == MANY
        assert [one.extra for one in ports] == [{"rack": 7}] * (MANY + 1)
        assert (await send(producer, "port.delete", "7", {"port": port["port"]}))["status"] == "accepted"
        assert (await send(producer, "port.delete", "8", {"ports": some}))["accepted"] == MANY
        assert (await send(producer, "node.delete", "9", {"node": "alone"}))["status"] == "accepted"
        assert (await send(producer, "node.delete", "10", {"nodes": NAMES}))["accepted"] == MANY
        assert (len(nodes), len(ports)) == (0, 0)
