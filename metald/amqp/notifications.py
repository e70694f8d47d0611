"""Ironic's own versioned notifications, for consumers that exist: the oslo.messaging envelope and Ironic's payloads.

Rules: each comes from an event of the outbox, so none is lost, unlike Ironic's. A payload shows the resource as it is when
it is published, with the facts of its own event over it; a resource that is gone as it was last, or, where this daemon has
started since, as far as the event tells. Exchange and queues are as oslo.messaging makes them by default, so that either
side may come first. Secrets are masked.

Source: ironic/conductor/notification_utils.py, task_manager.py and utils.py, ironic/api/controllers/v1/notification_utils.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import msgspec
from pamqp.commands import Basic

from metald.amqp import topology
from metald.amqp.ironic_payloads import RESOURCES, blank, payload
from metald.amqp.pipeline import Message
from metald.amqp.publisher import Voice
from metald.config import Amqp
from metald.model import Event, Node, PowerState, PowerTarget, ProvisionState, Resource, WorkflowKind, WorkflowState
from metald.statemachine.table import FAILED, STABLE
from metald.store.store import Store

_encode = msgspec.json.Encoder().encode  # as in the store: what can be kept can be told, numbers of more than 64 bits too
_HELD = frozenset({ProvisionState.CLEAN_HOLD, ProvisionState.DEPLOY_HOLD, ProvisionState.SERVICE_HOLD})
_RESTING = STABLE | FAILED | _HELD
"""States that Ironic does not call unstable: work that leaves them starts, work that reaches them ends."""
_REACHED = MappingProxyType(
    {
        PowerTarget.ON: PowerState.ON,
        PowerTarget.REBOOT: PowerState.ON,
        PowerTarget.SOFT_REBOOT: PowerState.ON,
        PowerTarget.OFF: PowerState.OFF,
        PowerTarget.SOFT_OFF: PowerState.OFF,
    }
)
_CRUD = frozenset({"create", "update", "delete"})
_OF_API = _CRUD | {"maintenance_set"}
"""What Ironic's API tells of; its conductor tells of the rest."""
_POWER_SET = "NodeSetPowerStatePayload"
_LOOKS = (None, WorkflowKind.VERIFY, WorkflowKind.ADOPT)
"""Who finds out about the power and does not change it: the power sync, and these workflows."""
_GONE = 5_000
"""Resources that are remembered when they are gone."""


class IronicVoice(Voice):
    """Events as Ironic's notifications.

    Args:
        settings: exchange and topics.
        store: resources as they are now.
        hostname: this conductor's name.
    """

    def __init__(self, settings: Amqp, store: Store, hostname: str) -> None:
        self._settings = settings
        self._store = store
        self._hostname = hostname
        self._gone: OrderedDict[str, Resource] = OrderedDict()
        for told in RESOURCES.values():
            store.table(told.kind).gone = self._remember

    async def declare(self, channel: Any) -> None:
        """See Voice."""
        durable = self._settings.notification_durable
        exchange = await topology.topic(channel, self._settings, self._settings.notification_exchange, durable=durable)
        for topic in self._settings.notification_topics:
            for priority in ("info", "error"):
                queue = await topology.queue(channel, self._settings, f"{topic}.{priority}", durable=durable)
                await topology.bind(queue, self._settings, exchange, f"{topic}.{priority}")

    def messages(self, event: Event) -> Iterable[Message]:
        """See Voice."""
        for index, (action, status, name, facts) in enumerate(_notifications(event)):
            word, _, what = action.partition(".")
            priority = "error" if status == "error" else "info"
            message = {
                "message_id": f"{event.id[:-2]}{index:02x}",
                "publisher_id": f"ironic-{'api' if what in _OF_API else 'conductor'}.{self._hostname}",
                "event_type": f"baremetal.{RESOURCES[word].word}.{what}.{status}",
                "priority": priority.upper(),
                "payload": self._payload(event, word, name, facts),
                "timestamp": f"{event.time:%Y-%m-%d %H:%M:%S.%f}",
            }
            body = _encode({"oslo.version": "2.0", "oslo.message": _encode(message).decode()})
            for topic in self._settings.notification_topics:
                properties = Basic.Properties(
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=2,
                    message_id=f"{event.seq}/{index}/{topic}",
                )
                yield Message(self._settings.notification_exchange, f"{topic}.{priority}", body, properties.marshal())

    def _payload(self, event: Event, word: str, name: str, facts: dict[str, Any]) -> dict[str, Any]:
        kind = RESOURCES[word].kind
        uuid = (event.node_uuid if kind is Node else event.subject) or ""
        found = self._store.table(kind).get(uuid) or self._gone.get(uuid)
        known = {"uuid": uuid, "node_uuid": event.node_uuid}
        return payload(name, facts, found, known if found is not None else {**blank(kind), **known, **event.data})

    def _remember(self, resource: Resource) -> None:
        self._gone[resource.uuid] = resource
        if len(self._gone) > _GONE:
            self._gone.popitem(last=False)


_Notification = tuple[str, str, str, dict[str, Any]]
"""`resource.action`, status, payload, and the facts that only the event knows."""


def _notifications(event: Event) -> Iterable[_Notification]:
    """What Ironic would have told of the event: nothing, one, or the start and the end of what was done at once."""
    word, _, what = event.type.partition(".")
    data = event.data
    if word in RESOURCES and what in _CRUD:
        return [(event.type, status, RESOURCES[word].crud, {}) for status in ("start", "end")]
    if event.type == "node.provision":
        return [_provision(event)]
    if event.type == "node.maintenance":
        facts = {"maintenance": data["maintenance"], "maintenance_reason": data.get("reason")}
        return [("node.maintenance_set", status, "NodePayload", facts) for status in ("start", "end")]
    if event.type == "node.console":
        if data.get("error") is not None:
            return [("node.console_restore", "error", "NodePayload", {})]
        facts = {"console_enabled": data["enabled"]}
        return [("node.console_set", status, "NodePayload", facts) for status in ("start", "end")]
    return _power(event)


def _power(event: Event) -> Iterable[_Notification]:
    data = event.data
    if event.type == "node.power":
        yield "node.power_set", "start", _POWER_SET, {"to_power": data["target"], "power_state": data["from"]}
    elif event.type == "node.workflow" and data["kind"] == WorkflowKind.POWER:
        facts = {"to_power": data["target"], "target_power_state": None}
        if data["state"] == WorkflowState.DONE:
            yield "node.power_set", "end", _POWER_SET, facts | {"power_state": _REACHED[data["target"]]}
        else:
            yield "node.power_set", "error", _POWER_SET, facts
    elif event.type == "node.power_seen" and data.get("kind") != WorkflowKind.POWER:  # of what a client asked for its end tells
        before, after = data["from"], data["to"]
        if data.get("kind") in _LOOKS:
            facts = {"from_power": before, "power_state": after}
            yield "node.power_state_corrected", "success", "NodeCorrectedPowerStatePayload", facts
        else:
            yield "node.power_set", "start", _POWER_SET, {"to_power": after, "power_state": before}
            yield "node.power_set", "end", _POWER_SET, {"to_power": after, "power_state": after, "target_power_state": None}


def _provision(event: Event) -> _Notification:
    data = event.data
    resting = (data["from"] in _RESTING, data["to"] in _RESTING)
    status = "error" if data["event"] == "fail" else {(True, False): "start", (False, True): "end"}.get(resting, "success")
    facts = {
        "event": data["event"],
        "provision_state": data["to"],
        "target_provision_state": data["target"],
        "previous_provision_state": data["from"],
        "previous_target_provision_state": data["previous_target"],
        "provision_updated_at": event.time,
    }
    return "node.provision_set", status, "NodeSetProvisionStatePayload", facts
