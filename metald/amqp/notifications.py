"""Ironic's own versioned notifications, for consumers that exist: the oslo.messaging envelope and Ironic's payloads.

Rules: each comes from an event of the outbox, so none is lost, unlike Ironic's. A payload shows the resource as it is when
it is published, with the facts of its own event over it; of a resource that is gone, what the event tells. Exchange and
queues are as oslo.messaging makes them by default, so that either side may come first. Secrets are masked.

Field lists and versions are those of Ironic's objects (ironic/objects/*.py, release 39).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

import orjson
from pamqp.commands import Basic

from metald.amqp import topology
from metald.amqp.pipeline import Message
from metald.amqp.publisher import Voice
from metald.config import Amqp
from metald.model import Chassis, Event, Node, Port, Resource, WorkflowKind
from metald.model.catalogue import Allocation, DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget
from metald.model.masking import masked
from metald.statemachine.table import STABLE
from metald.store.store import Store


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_BASE = ("created_at", "updated_at", "uuid")
_INTERFACES = _words("bios boot console deploy inspect management network power raid rescue storage vendor")
_NODE = (
    *_BASE,
    *(f"{kind}_interface" for kind in _INTERFACES),
    *_words("boot_mode clean_step conductor_group console_enabled deploy_step description disable_power_off driver extra fault"),
    *_words("inspection_finished_at inspection_started_at instance_uuid last_error lessee maintenance maintenance_reason name owner"),
    *_words("power_state properties protected protected_reason provision_state provision_updated_at resource_class retired"),
    *_words("retired_reason secure_boot target_power_state target_provision_state traits"),
)

PAYLOADS: MappingProxyType[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "NodePayload": ("1.17", _NODE),
        "NodeSetPowerStatePayload": ("1.17", (*_NODE, "to_power")),
        "NodeCorrectedPowerStatePayload": ("1.17", (*_NODE, "from_power")),
        "NodeSetProvisionStatePayload": (
            "1.18",
            (
                *_NODE,
                *_words("driver_internal_info event instance_info previous_provision_state previous_target_provision_state"),
            ),
        ),
        "NodeCRUDPayload": ("1.15", (*_NODE, "chassis_uuid", "driver_info", "instance_info")),
        "PortCRUDPayload": (
            "1.8",
            (
                *_BASE,
                *_words("address available_for_dynamic_portgroup category description extra is_smartnic local_link_connection name"),
                *_words("node_uuid physical_network portgroup_uuid pxe_enabled vendor"),
            ),
        ),
        "PortgroupCRUDPayload": (
            "1.3",
            (
                *_BASE,
                *_words("address category dynamic_portgroup extra mode name node_uuid physical_network properties"),
                "standalone_ports_supported",
            ),
        ),
        "ChassisCRUDPayload": ("1.0", (*_BASE, "description", "extra")),
        "AllocationCRUDPayload": (
            "1.1",
            (*_BASE, *_words("candidate_nodes extra last_error name node_uuid owner resource_class state traits")),
        ),
        "DeployTemplateCRUDPayload": ("1.0", (*_BASE, "extra", "name", "steps")),
        "RunbookCRUDPayload": ("1.1", (*_BASE, *_words("description disable_ramdisk extra name owner public steps traits"))),
        "VolumeConnectorCRUDPayload": ("1.0", (*_BASE, "connector_id", "extra", "node_uuid", "type")),
        "VolumeTargetCRUDPayload": ("1.0", (*_BASE, *_words("boot_index extra node_uuid properties volume_id volume_type"))),
        "InspectionRuleCRUDPayload": ("1.0", (*_BASE, *_words("actions conditions description phase priority scope sensitive"))),
    }
)
"""Version and fields of each payload."""

_RESOURCES: MappingProxyType[str, tuple[type[Resource], str]] = MappingProxyType(
    {
        "node": (Node, "node"),
        "port": (Port, "port"),
        "portgroup": (Portgroup, "portgroup"),
        "chassis": (Chassis, "chassis"),
        "allocation": (Allocation, "allocation"),
        "deploy_template": (DeployTemplate, "deploytemplate"),
        "runbook": (Runbook, "runbook"),
        "volume_connector": (VolumeConnector, "volumeconnector"),
        "volume_target": (VolumeTarget, "volumetarget"),
        "inspection_rule": (InspectionRule, "inspectionrule"),
    }
)
"""For the first word of our event types: the resource, and Ironic's word for it."""


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
        self._publisher = f"ironic-conductor.{hostname}"

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
                "publisher_id": self._publisher,
                "event_type": f"baremetal.{_RESOURCES[word][1]}.{what}.{status}",
                "priority": priority.upper(),
                "payload": self._payload(event, word, name, facts),
                "timestamp": f"{event.time:%Y-%m-%d %H:%M:%S.%f}",
            }
            body = orjson.dumps({"oslo.version": "2.0", "oslo.message": orjson.dumps(message).decode()})
            for topic in self._settings.notification_topics:
                properties = Basic.Properties(
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=2,
                    message_id=f"{event.seq}/{index}/{topic}",
                )
                yield Message(self._settings.notification_exchange, f"{topic}.{priority}", body, properties.marshal())

    def _payload(self, event: Event, word: str, name: str, facts: dict[str, Any]) -> dict[str, Any]:
        kind = _RESOURCES[word][0]
        uuid = event.node_uuid if kind is Node else event.subject
        found = self._store.table(kind).get(uuid or "")
        known = {"uuid": uuid, "node_uuid": event.node_uuid, **event.data, **facts}
        version, fields = PAYLOADS[name]
        data = {field: _plain(facts[field] if field in facts else getattr(found, field, known.get(field))) for field in fields}
        return {
            "ironic_object.namespace": "ironic",
            "ironic_object.name": name,
            "ironic_object.version": version,
            "ironic_object.data": masked(data),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


_Notification = tuple[str, str, str, dict[str, Any]]
"""`resource.action`, status, payload, and the facts that only the event knows."""


def _notifications(event: Event) -> Iterable[_Notification]:
    """What Ironic would have told of the event: nothing, one, or the start and the end of what was done at once."""
    word, _, what = event.type.partition(".")
    data = event.data
    if word in _RESOURCES and what in ("create", "update", "delete"):
        payload = _CRUD[word]
        return [(event.type, "start", payload, {}), (event.type, "end", payload, {})]
    if event.type == "node.maintenance":
        facts = {"maintenance": data["maintenance"], "maintenance_reason": data.get("reason")}
        return [("node.maintenance_set", status, "NodePayload", facts) for status in ("start", "end")]
    if event.type == "node.power":
        return [("node.power_set", "start", "NodeSetPowerStatePayload", {"to_power": data["target"], "power_state": data["from"]})]
    if event.type == "node.workflow" and data["kind"] == WorkflowKind.POWER:
        return [("node.power_set", "error" if event.severity == "ERROR" else "end", "NodeSetPowerStatePayload", {})]
    if event.type == "node.console":
        if data.get("error") is not None:
            return [("node.console_restore", "error", "NodePayload", {})]
        facts = {"console_enabled": data["enabled"]}
        return [("node.console_set", status, "NodePayload", facts) for status in ("start", "end")]
    if event.type == "node.power_seen" and data.get("workflow") is None:  # what a workflow changes is no correction
        facts = {"from_power": data["from"], "power_state": data["to"]}
        return [("node.power_state_corrected", "success", "NodeCorrectedPowerStatePayload", facts)]
    return [_provision(event)] if event.type == "node.provision" else []


def _provision(event: Event) -> _Notification:
    data = event.data
    stable = [state in STABLE for state in (data["from"], data["to"])]
    status = "error" if data["event"] == "fail" else {(True, False): "start", (False, True): "end"}.get((stable[0], stable[1]), "success")
    facts = {
        "event": data["event"],
        "provision_state": data["to"],
        "target_provision_state": data["target"],
        "previous_provision_state": data["from"],
        "previous_target_provision_state": data["previous_target"],
        "provision_updated_at": event.time,
    }
    return "node.provision_set", status, "NodeSetProvisionStatePayload", facts


_CRUD = MappingProxyType(
    {
        "node": "NodeCRUDPayload",
        "port": "PortCRUDPayload",
        "portgroup": "PortgroupCRUDPayload",
        "chassis": "ChassisCRUDPayload",
        "allocation": "AllocationCRUDPayload",
        "deploy_template": "DeployTemplateCRUDPayload",
        "runbook": "RunbookCRUDPayload",
        "volume_connector": "VolumeConnectorCRUDPayload",
        "volume_target": "VolumeTargetCRUDPayload",
        "inspection_rule": "InspectionRuleCRUDPayload",
    }
)
