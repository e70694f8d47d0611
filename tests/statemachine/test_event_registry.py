"""The registry of event types, held against the code and against what really happens."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from metald.amqp.cloudevents import document as cloud_event
from metald.amqp.cloudevents import encode, routing_key
from metald.config import StoreSettings
from metald.drivers.base import Done, Outcome, StepContext
from metald.model import Event, ProvisionState, Verb, new_uuid
from metald.model.asyncapi import addresses, document
from metald.model.eventtypes import EVENT_TYPES
from metald.statemachine.progress import Progress
from metald.store.store import Store
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


def validate(event: Event) -> None:
    """Hold one event, as it goes over the wire, against the document."""
    schema = {**DOCUMENT, "$ref": f"#/components/messages/{event.type}/payload"}
    jsonschema.Draft202012Validator(schema).validate(orjson.loads(encode(event, "/test")))
    key = routing_key(event)
    shapes = [address.replace("{uuid}", event.node_uuid or event.subject or "-") for address in addresses(EVENT_TYPES[event.type])]
    assert key in shapes, f"{event.type} is published with {key}, the document says {shapes}"


async def test_a_deployment_is_as_the_document_says(tmp_path: Path) -> None:
    house = House(tmp_path, settings())
    async with house.open():
        node = await house.add(provision_state=ProvisionState.AVAILABLE)
        house.deploy.scripts["first"] = _showing
        await house.do(node.uuid, Verb.DEPLOY, ProvisionState.ACTIVE)
        await house.do(node.uuid, Verb.DELETE, ProvisionState.AVAILABLE)
        events = await house.store.events()
    for event in events:
        validate(event)
    kinds = {event.type for event in events}
    assert kinds >= {"node.provision", "node.step", "node.workflow"}
    steps = [event.data for event in events if event.type == "node.step"]
    begun = [step["next"] for step in steps if step["next"]]
    ended = [f"{step['interface']}.{step['step']}" for step in steps]
    assert begun
    assert set(begun) <= set(ended)


async def _showing(context: StepContext) -> Outcome:
    context.progress(message="half", bytes=5, total=10, rate=1, eta=5.0)
    return Done()


def test_an_event_of_another_shape_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(Event(type="node.maintenance", node_uuid=new_uuid(), seq=1))
    with pytest.raises(jsonschema.ValidationError):
        validate(Event(type="node.nmi", subject=None, seq=1))


def test_secrets_do_not_leave() -> None:
    found = cloud_event(Event(type="node.vendor", node_uuid=new_uuid(), data={"method": "m", "password": "x"}, seq=3), "/test")
    assert found["data"] == {"method": "m", "password": "******"}


async def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    store = await Store.open(StoreSettings(), tmp_path)
    time = 0.0
    progress = Progress(store, 5.0, lambda: time)
    told = asyncio.Event()
    store.subscribe(lambda _events: told.set())
    running = asyncio.create_task(progress.run())
    a, b = new_uuid(), new_uuid()
    try:
        for moment in range(11):
            time = float(moment)
            progress.show(a, {"done": moment, "total": 10})
            if moment in (0, 5, 10):
                await told.wait()
                told.clear()
        progress.show(b, {"message": "over at once"})
        progress.over(b)
        assert progress.of(a) == {"done": 10, "total": 10}
        assert progress.of(b) == {}
        events = await store.events()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
    assert [(event.node_uuid, event.data["done"]) for event in events if event.data] == [(a, 0), (a, 5), (a, 10)]
    for event in events:
        validate(event)
