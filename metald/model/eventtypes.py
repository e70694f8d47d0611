"""The registry of event types: what can happen, in one table, with the payload of each.

Every event that metald emits has its type here; tests hold the code to it, and the AsyncAPI document and
docs/reference/events.md are made from it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec

from metald.model.eventdata import (
    AgentLogs,
    AgentLost,
    AgentToken,
    BmcAnswer,
    BootDeviceSet,
    BootStopped,
    BootWarning,
    CommandRejected,
    ConsoleSwitched,
    Dropped,
    Erasure,
    Failed,
    Fetched,
    Fields,
    Hardware,
    Heartbeat,
    ImageWritten,
    Indicator,
    Inspected,
    InventoryTaken,
    Lease,
    MaintenanceSet,
    NodeCreated,
    NodeDeleted,
    Nothing,
    Payload,
    PortFacts,
    PowerAsked,
    PowerSeen,
    Progress,
    Provision,
    Ramdisk,
    Step,
    StepBegun,
    UnknownBoot,
    Vendor,
    WorkflowEnded,
)


class EventType(msgspec.Struct, frozen=True):
    """One type of event."""

    name: str
    text: str
    """What it tells of, as the end of "Tells of ..."."""
    payload: type[Payload]

    @property
    def of_node(self) -> bool:
        """Whether it is always about a node."""
        return self.name.startswith("node.")


_NODE: tuple[tuple[str, str, type[Payload]], ...] = (
    ("node.create", "a new node", NodeCreated),
    ("node.update", "a client's change of a node", Fields),
    ("node.delete", "a node that is gone", NodeDeleted),
    ("node.maintenance", "maintenance set or cleared, by a client or by a fault", MaintenanceSet),
    ("node.provision", "a move of the provision state", Provision),
    ("node.step_begun", "a step that begins", StepBegun),
    ("node.step", "the end of a step, a wait, or another try", Step),
    ("node.progress", "how far the running step has come", Progress),
    ("node.workflow", "the end of a workflow", WorkflowEnded),
    ("node.power", "a client's wish for a power change", PowerAsked),
    ("node.power_seen", "another power state than the one known", PowerSeen),
    ("node.boot_device", "a new boot device", BootDeviceSet),
    ("node.nmi", "a non-maskable interrupt that a client sent", Nothing),
    ("node.hardware", "a client's wish of the hardware, console included", Hardware),
    ("node.console", "a console that was opened or closed, or could not be opened again after a restart", ConsoleSwitched),
    ("node.vendor", "a vendor's method that a client called", Vendor),
    ("node.bmc_answer", "the answer to a raw command of a step", BmcAnswer),
    ("node.indicator", "an indicator light that a client set", Indicator),
    ("node.dhcp", "a question of the machine to the DHCP server", Lease),
    ("node.tftp", "a file that the machine asked for over TFTP", Fetched),
    ("node.http", "a file that the machine asked for over HTTP", Fetched),
    ("node.boot_stopped", "a boot that stopped, and the likely cause", BootStopped),
    ("node.boot_warning", "something wrong around a boot that may go on", BootWarning),
    ("node.ramdisk", "a ramdisk that called", Ramdisk),
    ("node.agent_lookup", "a deploy agent that asked which node it is on", Nothing),
    ("node.heartbeat", "a heartbeat of a deploy agent", Heartbeat),
    ("node.agent_token", "a deploy agent that asked again which node it is on", AgentToken),
    ("node.agent_logs", "the logs of a deploy agent that were kept", AgentLogs),
    ("node.agent_lost", "a deploy agent that went away in the middle of its work", AgentLost),
    ("node.erasure", "a disk that was erased wholly, or could not erase itself", Erasure),
    ("node.inventory", "an inventory that a ramdisk handed in", InventoryTaken),
    ("node.inspection", "hooks and rules that were applied to an inventory", Inspected),
    ("node.image_written", "an image that was written and checked", ImageWritten),
)

_RESOURCES = (
    "allocation",
    "chassis",
    "deploy_template",
    "inspection_rule",
    "port",
    "portgroup",
    "runbook",
    "volume_connector",
    "volume_target",
)


def _resource(word: str) -> list[EventType]:
    noun = word.replace("_", " ")
    made: type[Payload] = PortFacts if word == "port" else Nothing
    article = "an" if noun[0] in "aeiou" else "a"
    return [
        EventType(f"{word}.create", f"a new {noun}", made),
        EventType(f"{word}.update", f"a change of {article} {noun}", Fields),
        EventType(f"{word}.delete", f"{article} {noun} that is gone", made),
    ]


_ALL = (
    *(EventType(*row) for row in _NODE),
    *(one for word in _RESOURCES for one in _resource(word)),
    EventType("allocation.active", "an allocation that got its node", Nothing),
    EventType("allocation.failed", "an allocation that found no node", Failed),
    EventType("boot.unknown", "a machine that booted and is no node", UnknownBoot),
    EventType("boot.stopped", "a boot of a machine that is no node, and why it cannot go on", BootStopped),
    EventType("boot.warning", "something wrong around a boot of a machine that is no node", BootWarning),
    EventType("boot.dhcp", "a question to the DHCP server from a machine that is not known to be a node", Lease),
    EventType("boot.tftp", "a file that a machine that is not known to be a node asked for over TFTP", Fetched),
    EventType("boot.http", "a file that a machine that is not known to be a node asked for over HTTP", Fetched),
    EventType("command.rejected", "a message that was refused as a command", CommandRejected),
    EventType("events.dropped", "events that were let go before they could be told", Dropped),
)

EVENT_TYPES: MappingProxyType[str, EventType] = MappingProxyType({one.name: one for one in _ALL})
"""Every type of event, by name."""


def schemas(template: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """JSON Schemas (2020-12) of the payloads.

    Args:
        template: how one refers to another, as in `#/components/schemas/{name}`.

    Returns:
        For each event type the schema of its `data`; and the definitions that they refer to. They allow further fields,
        as readers must.
    """
    kinds = [one.payload for one in EVENT_TYPES.values()]
    found, definitions = msgspec.json.schema_components(kinds, ref_template=template)
    for schema in definitions.values():
        schema.pop("additionalProperties", None)
    return dict(zip(EVENT_TYPES, found, strict=True)), definitions
