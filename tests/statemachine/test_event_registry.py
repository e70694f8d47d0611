"""The registry of event types, held against the code and against what really happens."""

from __future__ import annotations

import ast
import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from metald.amqp.cloudevents import encode
from metald.config import StoreSettings
from metald.drivers.base import Done, Outcome, StepContext
from metald.model import Event, ProvisionState, Verb, new_uuid
from metald.model.asyncapi import document
from metald.model.event import dropped
from metald.model.eventtypes import EVENT_TYPES
from metald.statemachine.progress import Progress
from metald.store.store import Store
from tests.support.daemon import Daemon, api
from tests.support.events import WITHOUT_TRAFFIC, Traffic, fault_of
from tests.support.house import House, settings

DOCUMENT = document("1")


def _types_in_code() -> Iterator[tuple[str, str]]:
    """The type of each Event(...) that is written out, `note(...)`, `seen(...)`; with where it stands."""
    for path in Path("metald").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name == "Event":
                yield from ((value, str(path)) for value in (_text(k.value) for k in call.keywords if k.arg == "type") if value)
            elif name == "seen" and call.args and (text := _text(call.args[0])):
                yield text, str(path)
            elif name == "note" and len(call.args) == 1 and (text := _text(call.args[0])):
                yield f"node.{text}", str(path)


def _text(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else ""


def test_every_type_in_the_code_is_registered() -> None:
    found = list(_types_in_code())
    assert len(found) > 25
    assert [(kind, path) for kind, path in found if kind not in EVENT_TYPES] == []


def test_the_document_is_whole() -> None:
    """Every reference in it leads somewhere, and every schema is one."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    references = set(walk(DOCUMENT))
    assert len(references) > 3 * len(EVENT_TYPES)
    for reference in references:
        place: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for name in DOCUMENT["components"]["schemas"]:
        jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


async def test_a_deployment_is_as_the_document_says(tmp_path: Path) -> None:
    house = House(tmp_path, settings())
    async with house.open():
        node = await house.add(provision_state=ProvisionState.AVAILABLE)
        house.deploy.scripts["first"] = _showing
        await house.do(node.uuid, Verb.DEPLOY, ProvisionState.ACTIVE)
        await house.do(node.uuid, Verb.DELETE, ProvisionState.AVAILABLE)
        events = await house.store.events()
    assert [fault for event in events if (fault := fault_of(event))] == []
    kinds = {event.type for event in events}
    assert kinds >= {"node.provision", "node.step_begun", "node.step", "node.workflow", "node.power_seen"}
    for workflow in {event.subject for event in events if event.type == "node.step"}:
        mine = [event for event in events if event.subject == workflow]
        begun = [_name(event) for event in mine if event.type == "node.step_begun"]
        ends = [event for event in mine if event.type == "node.step" and event.data["outcome"] != "wait"]
        assert begun == [_name(event) for event in ends]
        assert begun[1:] == [event.data["next"] for event in ends if event.data["next"]]
    seen = [event.data for event in events if event.type == "node.power_seen"]
    assert [one["to"] for one in seen] == ["power on", "power off"]
    assert all(one["workflow"] for one in seen)


def _name(event: Event) -> str:
    return f"{event.data['interface']}.{event.data['step']}"


async def _showing(context: StepContext) -> Outcome:
    context.progress(message="half", bytes=5, total=10, rate=1, eta=5.0)
    return Done()


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (Event(type="node.maintenance", node_uuid=new_uuid()), "Object missing required field `maintenance`"),
        (Event(type="node.maintenance", node_uuid=new_uuid(), data={"maintenance": True, "fan": 1}), "unknown field `fan`"),
        (Event(type="node.nmi"), "names no node"),
        (Event(type="node.nmi", node_uuid="n1"), '"n1" is not a "uuid"'),
        (Event(type="chassis.create", subject=new_uuid(), severity="LOUD"), 'not one of "INFO", "WARNING" or "ERROR"'),
        (Event(type="chassis.create", node_uuid=new_uuid(), subject=new_uuid()), "is published with node."),
        (Event(type="node.fan", node_uuid=new_uuid()), "register it"),
    ],
)
def test_an_event_of_another_shape_is_found(event: Event, fault: str) -> None:
    """What looks at the events of every test is no check that cannot fail."""
    assert fault in (fault_of(event) or "")


def test_what_no_test_tells_to_a_store_is_as_the_document_says() -> None:
    assert set(WITHOUT_TRAFFIC) == {"events.dropped"}
    assert fault_of(dropped(1, 20)) is None


async def test_the_events_of_a_daemon_are_looked_at_when_it_has_ended(tmp_path: Path) -> None:
    """One that was killed too; what is wrong is found, and what it told of counts as told."""
    seen = Traffic()
    async with Daemon(tmp_path) as daemon:
        seen.read(daemon)  # there is none yet
        await daemon.start()
        async with api(daemon) as client:
            await client.create(driver="fake-hardware")
    seen.read(daemon)
    assert (seen.types, seen.faults) == ({"node.create"}, [])
    with sqlite3.connect(daemon.state_dir / "metald.sqlite") as database:
        database.execute("UPDATE events SET doc = json_remove(doc, '$.data.driver')")
    database.close()
    seen.read(daemon)
    assert len(seen.faults) == 1
    assert "required field `driver`" in seen.faults[0]
    (daemon.state_dir / "metald.sqlite").write_bytes(b"not a database, " * 512)
    seen.read(daemon)
    assert len(seen.faults) == 1


def test_secrets_do_not_leave() -> None:
    found = orjson.loads(encode(Event(type="node.vendor", node_uuid=new_uuid(), data={"method": "m", "password": "x"}, seq=3), "/test"))
    assert found["data"] == {"method": "m", "password": "******"}


async def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    """At most one event of a node in an interval, with what is shown then; the last that was shown is told too."""
    store = await Store.open(StoreSettings(), tmp_path)
    time = 0.0
    progress = Progress(store, 5.0, lambda: time)
    a, b = new_uuid(), new_uuid()
    told: list[tuple[float, str, Any]] = []
    for moment in range(20):
        time = float(moment)
        if moment <= 7:
            progress.show(a, {"done": moment, "total": 10})
        if moment == 12:
            progress.show(b, {"message": "over at once"})
            progress.over(b)
        if moment in (14, 15):
            progress.over(a)  # a step that ends lets the next one of its node tell no sooner
            progress.show(a, {"done": moment, "total": 20})
        events = progress.due()
        for event in events:
            assert fault_of(event) is None
        told += [(time, str(event.node_uuid), event.data["done"]) for event in events]
    assert told == [(0, a, 0), (5, a, 5), (10, a, 7), (15, a, 15)]
    assert progress.of(b) == {}
    running = asyncio.create_task(progress.run())
    try:
        progress.show(b, {"done": 1})
        async with asyncio.timeout(60):
            while store.last_seq == 0:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
