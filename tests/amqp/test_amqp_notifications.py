"""Ironic's notifications: what is told of each event, read by real oslo.messaging and compared with Ironic's own objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.amqp.ironic_payloads import PAYLOADS
from metald.amqp.notifications import _RESTING, IronicVoice
from metald.amqp.service import Broker
from metald.config import Settings, StoreSettings
from metald.model import Chassis, Event, Node, PowerTarget, ProvisionState, Resource, new_uuid
from metald.model.catalogue import DeployTemplate, InspectionRule, Runbook, VolumeTarget
from metald.store.changes import Change
from metald.store.store import Store
from tests.amqp.conftest import settings
from tests.support.ironic_notices import IRONIC, hold, listening, payloads, through_ironic

_FIELDS = """
import importlib, json
from ironic.common import states
found = {}
for name in "node port portgroup chassis allocation deploy_template runbook volume_connector volume_target inspection_rule".split():
    module = importlib.import_module("ironic.objects." + name)
    for key, value in vars(module).items():
        if key.endswith("Payload") and getattr(value, "__module__", "") == module.__name__:
            fields = {name: type(one).__name__.removesuffix("Field") + "?" * one.nullable for name, one in value.fields.items()}
            found[key] = [value.VERSION, fields]
print(json.dumps([found, sorted(states.UNSTABLE_STATES)]))
"""
UNSTABLE = (
    "adopting", "clean wait", "cleaning", "deleting", "deploying", "inspect wait", "inspecting", "rescue wait", "rescuing", "service wait",
    "servicing", "unrescuing", "verifying", "wait call-back",
)  # fmt: skip


def test_payloads_have_the_fields_and_versions_of_ironics() -> None:
    listed = {name: (version, sorted(fields)) for name, (version, fields) in payloads().items()}
    assert {name: (version, sorted(fields)) for name, (version, fields) in PAYLOADS.items()} == listed
    assert set(ProvisionState) - _RESTING == set(UNSTABLE)


@pytest.mark.skipif(not IRONIC.exists(), reason="no Ironic in build/ironic; the committed list of its fields is compared all the same")
def test_the_committed_list_is_ironics() -> None:
    output = subprocess.run([IRONIC, "-W", "ignore", "-c", _FIELDS], check=True, capture_output=True, cwd="/").stdout
    found, unstable = json.loads(output)
    assert {name: [version, fields] for name, (version, fields) in payloads().items()} == found
    assert sorted(UNSTABLE) == unstable


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(StoreSettings(), tmp_path)
    yield opened
    await opened.close()


def _told(voice: IronicVoice, event: Event) -> list[tuple[str, dict[str, Any]]]:
    """What is told of an event: type, and data."""
    found = []
    for message in voice.messages(event):
        inner = json.loads(json.loads(message.body)["oslo.message"])
        hold([inner])
        found.append((inner["event_type"].removeprefix("baremetal.node."), inner["payload"]["ironic_object.data"]))
    return found


def _moved(node_uuid: str, event: str, before: str, after: str) -> Event:
    data = {"event": event, "from": before, "to": after, "target": "active", "previous_target": "active"}
    return Event(type="node.provision", node_uuid=node_uuid, data=data)


@pytest.mark.parametrize(
    ("event", "before", "after", "status"),
    [
        ("deploy", "available", "deploying", "start"),
        ("wait", "deploying", "wait call-back", "success"),
        ("done", "deploying", "active", "end"),
        ("fail", "wait call-back", "deploy failed", "error"),
        ("abort", "clean wait", "clean failed", "end"),
        ("deploy", "deploy failed", "deploying", "start"),
        ("manage", "deploy failed", "manageable", "success"),
        ("hold", "cleaning", "clean hold", "end"),
        ("unhold", "clean hold", "clean wait", "start"),
        ("abort", "service hold", "service failed", "success"),
        ("clean", "deleting", "cleaning", "success"),
    ],
)
async def test_moves_start_and_end_where_ironics_do(store: Store, event: str, before: str, after: str, status: str) -> None:
    """ironic/conductor/task_manager.py: failed states and holds are at rest too."""
    node = Node(driver="fake-hardware")
    await store.commit(Change(save=[node]))
    [(told, data)] = _told(IronicVoice(settings("amqp://x/"), store, "here"), _moved(node.uuid, event, before, after))
    assert told == f"provision_set.{status}"
    assert (data["event"], data["previous_provision_state"], data["provision_state"]) == (event, before, after)


async def test_power_is_told_with_what_was_asked_for(store: Store) -> None:
    node = Node(driver="fake-hardware", power_state="power off")  # type: ignore[arg-type]
    await store.commit(Change(save=[node]))
    voice = IronicVoice(settings("amqp://x/"), store, "here")

    def tell(kind: str, /, **data: Any) -> list[tuple[str, Any, Any]]:
        event = Event(type=kind, node_uuid=node.uuid, data={key.rstrip("_"): value for key, value in data.items()})
        return [(told, one.get("to_power", one.get("from_power")), one["power_state"]) for told, one in _told(voice, event)]

    assert tell("node.power", target="soft rebooting", from_="power on") == [("power_set.start", "soft rebooting", "power on")]
    for target, reached in (
        ("power on", "power on"),
        ("soft rebooting", "power on"),
        ("rebooting", "power on"),
        ("soft power off", "power off"),
    ):
        assert tell("node.workflow", kind="power", state="done", target=target) == [("power_set.end", target, reached)]
    for state in ("failed", "aborted"):
        assert tell("node.workflow", kind="power", state=state, target="power on") == [("power_set.error", "power on", "power off")]
    assert tell("node.workflow", kind="deploy", state="done") == []
    seen = {"from_": "power off", "to": "power on", "workflow": "w"}
    assert tell("node.power_seen", **seen, kind="power") == []  # told with the end
    both = [("power_set.start", "power on", "power off"), ("power_set.end", "power on", "power on")]
    assert tell("node.power_seen", **seen, kind="deploy") == both
    corrected = [("power_state_corrected.success", "power off", "power on")]
    assert tell("node.power_seen", **seen, kind="verify") == corrected
    assert tell("node.power_seen", from_="power off", to="power on") == corrected
    assert set(PowerTarget) == {"power on", "power off", "rebooting", "soft rebooting", "soft power off"}


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_is_gone_is_told_as_it_was(store: Store, restarted: bool) -> None:
    """A daemon that has started since knows no more than the event; what consumers do not take as null is empty then."""
    node = Node(driver="fake-hardware", name="n1")
    template = DeployTemplate(name="CUSTOM_A", steps=[{"interface": "bios", "step": "x", "args": {}, "priority": 1}])
    gone: list[tuple[str, Resource]] = [
        ("deploy_template", template),
        ("runbook", Runbook(name="CUSTOM_B", steps=[], traits=["CUSTOM_B"])),
        ("inspection_rule", InspectionRule(actions=[{"op": "log"}])),
        ("chassis", Chassis(description="left")),
        ("node", node),
    ]
    await store.commit(Change(save=[resource for _, resource in gone]))
    voice = IronicVoice(settings("amqp://x/"), store, "here")
    await store.commit(Change(delete=[store.table(type(resource)).get(resource.uuid) or resource for _, resource in gone]))
    if restarted:
        voice = IronicVoice(settings("amqp://x/"), store, "here")
    told = []
    for word, resource in gone:
        about = {"node_uuid": resource.uuid, "data": {"name": "n1"}} if word == "node" else {"subject": resource.uuid}
        event = Event(type=f"{word}.delete", **about)  # type: ignore[arg-type]
        told += [json.loads(json.loads(message.body)["oslo.message"]) for message in voice.messages(event)]
    hold(told)
    assert len(told) == 10
    data = [one["payload"]["ironic_object.data"] for one in told]
    assert [one["uuid"] for one in data[::2]] == [resource.uuid for _, resource in gone]
    assert (data[0]["name"], data[0]["steps"]) == (("", []) if restarted else ("CUSTOM_A", template.steps))
    assert (data[8]["name"], data[8]["driver"]) == ("n1", "" if restarted else "fake-hardware")
    if IRONIC.exists():
        through_ironic(told)


async def test_what_the_api_withholds_is_withheld(store: Store) -> None:
    rule = InspectionRule(actions=[{"op": "log", "args": {"msg": "hidden"}}], conditions=[{"op": "eq", "args": ["hidden"]}], sensitive=True)
    properties = {"target_portal": "10.0.0.1:3260", "auth_username": "hidden"}
    target = VolumeTarget(node_uuid=new_uuid(), volume_type="iscsi", volume_id="1", boot_index=0, properties=properties, key="k")
    node = Node(driver="ipmi", driver_info={"ipmi_password": "hidden"}, instance_info={"image_url": "hidden"})
    await store.commit(Change(save=[rule, target, node]))
    voice = IronicVoice(settings("amqp://x/"), store, "here")
    events = (
        Event(type="inspection_rule.create", subject=rule.uuid),
        Event(type="volume_target.create", node_uuid=target.node_uuid, subject=target.uuid),
        Event(type="node.create", node_uuid=node.uuid, data={"driver": "ipmi"}),
    )
    told = [data for event in events for _, data in _told(voice, event)]
    assert len(told) == 6
    assert "hidden" not in json.dumps(told)
    redacted = {"redacted_contents": "** Value redacted: not published on the notification bus. **"}
    assert (told[0]["actions"], told[0]["conditions"], told[2]["properties"]) == ([redacted], [redacted], redacted)


async def test_numbers_of_any_size_are_told(store: Store) -> None:
    node = Node(driver="ipmi", extra={"serial": 2**70})
    await store.commit(Change(save=[node]))
    event = Event(type="node.create", node_uuid=node.uuid, data={"driver": "ipmi"})
    told = _told(IronicVoice(settings("amqp://x/"), store, "here"), event)
    assert [data["extra"] for _, data in told] == [{"serial": 2**70}] * 2


@contextlib.asynccontextmanager
async def _publishing(store: Store, url: str, **more: Any) -> AsyncIterator[Broker]:
    broker = Broker(Settings(amqp=settings(url, notifications=True, publish=False, **more)), store, "here")
    await broker.prepare()
    task = asyncio.create_task(broker.run())
    try:
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.rabbit
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("first", ["listener", "metald"])
async def test_either_side_may_come_first(store: Store, url: str, durable: bool, first: str) -> None:
    """What metald declares is what oslo.messaging does, with `amqp_durable_queues` and without."""
    node = Node(driver="fake-hardware", name="n1")
    failed = {"enabled": False, "error": "gone"}
    events = [
        Event(type="node.create", node_uuid=node.uuid, data={"driver": "fake-hardware"}),
        Event(type="node.console", node_uuid=node.uuid, data={"enabled": True}),
        Event(type="node.console", node_uuid=node.uuid, severity="ERROR", data=failed),
        Event(type="node.heartbeat", node_uuid=node.uuid, data={}),
    ]
    async with contextlib.AsyncExitStack() as stack:
        if first == "listener":
            listener = await stack.enter_async_context(listening(url, durable=durable))
        broker = await stack.enter_async_context(_publishing(store, url, notification_durable=durable))
        await store.commit(Change(save=[node], events=events))
        if first == "metald":
            assert broker.publisher is not None
            async with asyncio.timeout(60):
                while broker.publisher.waiting:
                    await asyncio.sleep(0.01)
            listener = await stack.enter_async_context(listening(url, durable=durable))
        await listener.until(count=5)
    assert broker.link.refusals == 0
    hold(listener.got)
    told = [
        f"baremetal.node.{what}" for what in ("create.start", "create.end", "console_set.start", "console_set.end", "console_restore.error")
    ]
    assert sorted(one["event_type"] for one in listener.got) == sorted(told)
    assert {one["publisher_id"] for one in listener.got} == {"ironic-api.here", "ironic-conductor.here"}
