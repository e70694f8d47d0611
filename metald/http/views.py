"""How each kind of resource is shown: the tables of fields, with the microversion that brought each.

A new field is one line here. Order is that of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from metald.http.fields import Field, View
from metald.model import Chassis, Conductor, Node, Port, ProvisionState
from metald.model.catalogue import Allocation, DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget
from metald.model.masking import mask_text, masked

_TEXT = {"type": ["string", "null"]}
_FLAG = {"type": "boolean"}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_OBJECT = {"type": "object"}
_UUID = {"type": "string", "format": "uuid"}
_NULL_UUID = {"type": ["string", "null"], "format": "uuid"}


def _text(name: str, since: int = 1) -> Field[Any]:
    return Field(name, since, schema=_TEXT)


def _flag(name: str, since: int = 1) -> Field[Any]:
    return Field(name, since, schema=_FLAG)


def _time(name: str, since: int = 1) -> Field[Any]:
    return Field(name, since, schema=_TIME)


def _object(name: str, since: int = 1, *, secret: bool = False) -> Field[Any]:
    get = attrgetter(name)
    return Field(name, since, (lambda thing, _version: masked(get(thing))) if secret else None, sortable=False, schema=_OBJECT)


def _list(name: str, since: int = 1) -> Field[Any]:
    return Field(name, since, sortable=False, schema={"type": "array", "items": {"type": "string"}})


def _provision_state(node: Node, version: int) -> str | None:
    if node.provision_state is ProvisionState.AVAILABLE and version < 2:
        return None
    if node.provision_state is ProvisionState.INSPECT_WAIT and version < 39:
        return ProvisionState.INSPECTING
    return node.provision_state


def _allocation(node: Node, _version: int) -> str | None:
    """A claim ends with its instance, also before the claim itself is gone."""
    return node.allocation_uuid if node.instance_uuid == node.allocation_uuid else None


def _last_error(node: Node, _version: int) -> str | None:
    return mask_text(node.last_error) if node.last_error else node.last_error


UUID: Field[Any] = Field("uuid", schema=_UUID)
TIMES = (_time("created_at"), _time("updated_at"))


_NODE_FIELDS: tuple[Field[Node], ...] = (
    UUID,
    *TIMES,
    Field("automated_clean", 47, schema={"type": ["boolean", "null"]}),
    _text("bios_interface", 40),
    _text("boot_interface", 31),
    _text("boot_mode", 75),
    _object("clean_step", 7),
    Field("conductor_group", 46, schema={"type": "string"}),
    _flag("console_enabled"),
    _text("console_interface", 31),
    _flag("disable_power_off", 95),
    _text("deploy_interface", 31),
    _object("deploy_step", 44),
    _text("description", 51),
    Field("driver", schema={"type": "string"}),
    _object("driver_info", secret=True),
    _object("driver_internal_info", 3, secret=True),
    _object("extra"),
    _text("fault", 42),
    _text("firmware_interface", 86),
    _text("health", 109),
    _time("inspection_finished_at", 6),
    _time("inspection_started_at", 6),
    _text("inspect_interface", 31),
    _object("instance_info", secret=True),
    _text("instance_name", 104),
    Field("instance_uuid", schema=_NULL_UUID),
    Field("last_error", 1, _last_error, schema=_TEXT),
    _text("lessee", 65),
    _flag("maintenance"),
    _text("maintenance_reason"),
    _text("management_interface", 31),
    _text("name", 5),
    _object("network_data", 66),
    _text("network_interface", 20),
    _text("owner", 50),
    _text("parent_node", 83),
    _text("power_interface", 31),
    _text("power_state"),
    _object("properties"),
    _flag("protected", 48),
    _text("protected_reason", 48),
    Field("provision_state", 1, _provision_state, schema=_TEXT),
    _time("provision_updated_at"),
    _object("raid_config", 12),
    _text("raid_interface", 31),
    _text("rescue_interface", 38),
    _text("reservation"),
    _text("resource_class", 21),
    _flag("retired", 61),
    _text("retired_reason", 61),
    Field("secure_boot", 75, schema={"type": ["boolean", "null"]}),
    _object("service_step", 87),
    _text("shard", 82),
    _text("storage_interface", 33),
    _text("target_power_state"),
    _text("target_provision_state"),
    _object("target_raid_config", 12),
    Field("traits", 37, sortable=False, schema={"type": "array", "items": {"type": "string"}}),
    _text("vendor_interface", 31),
    Field("allocation_uuid", 52, _allocation, sortable=False, schema=_NULL_UUID),
    Field("chassis_uuid", sortable=False, schema=_NULL_UUID),
)


def _node_fields(conductor: Callable[[Node], str | None]) -> tuple[Field[Node], ...]:
    return (*_NODE_FIELDS, Field("conductor", 49, lambda node, _version: conductor(node), sortable=False, schema=_TEXT))


PORT_FIELDS: tuple[Field[Port], ...] = (
    UUID,
    *TIMES,
    Field("address", schema={"type": "string"}),
    _object("extra"),
    _object("internal_info", 18),
    _flag("is_smartnic", 53),
    _object("local_link_connection", 19),
    _flag("pxe_enabled", 19),
    _text("physical_network", 34),
    _text("name", 88),
    _text("description", 97),
    _text("vendor", 100),
    _text("category", 101),
    _flag("available_for_dynamic_portgroup", 111),
    Field("node_uuid", sortable=False, schema=_UUID),
    Field("portgroup_uuid", 24, sortable=False, schema=_NULL_UUID),
)

CHASSIS_FIELDS: tuple[Field[Chassis], ...] = (UUID, *TIMES, _text("description"), _object("extra"))


class ChassisView(View[Chassis]):
    """Chassis, whose `nodes` link is an array inside an array on the wire."""

    def document(self, thing: Chassis, version: int, base: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
        """See View."""
        found = super().document(thing, version, base, names)
        if names is None:
            found["nodes"] = [self.link(base, f"{thing.uuid}/nodes")]
        return found


CONDUCTOR_FIELDS: tuple[Field[Conductor], ...] = (
    Field("hostname", schema={"type": "string"}),
    Field("conductor_group", schema={"type": "string"}),
    Field("alive", 1, lambda _conductor, _version: True, sortable=False, schema=_FLAG),
    Field("drivers", sortable=False, schema={"type": "array", "items": {"type": "string"}}),
    *TIMES,
)

NODE_LINKS = (("ports", 1, "ports"), ("states", 14, "states"), ("portgroups", 24, "portgroups"), ("volume", 32, "volume"))


PORTGROUP_FIELDS: tuple[Field[Portgroup], ...] = (
    UUID,
    *TIMES,
    _text("address"),
    _object("extra"),
    _object("internal_info"),
    _text("mode", 26),
    _text("name"),
    _text("physical_network", 102),
    _text("category", 103),
    _flag("dynamic_portgroup", 111),
    _object("properties", 26),
    _flag("standalone_ports_supported"),
    Field("node_uuid", sortable=False, schema=_UUID),
)

ALLOCATION_FIELDS: tuple[Field[Allocation], ...] = (
    UUID,
    *TIMES,
    _list("candidate_nodes"),
    _object("extra"),
    _text("last_error"),
    _text("name"),
    _text("owner", 60),
    _text("resource_class"),
    Field("state", schema={"type": "string", "enum": ["allocating", "active", "error"]}),
    _list("traits"),
    Field("node_uuid", sortable=False, schema=_NULL_UUID),
)


def _steps(thing: DeployTemplate | Runbook, _version: int) -> list[Any]:
    return [{**step, "args": masked(step.get("args", {}))} for step in thing.steps]


_STEPS: Field[Any] = Field("steps", 1, _steps, sortable=False, schema={"type": "array", "items": _OBJECT})

TEMPLATE_FIELDS: tuple[Field[DeployTemplate], ...] = (UUID, *TIMES, _text("name"), _object("extra"), _STEPS, _text("description"))
RUNBOOK_FIELDS: tuple[Field[Runbook], ...] = (
    UUID,
    *TIMES,
    _text("name"),
    _object("extra"),
    _flag("public"),
    _text("owner"),
    _flag("disable_ramdisk"),
    _text("description", 112),
    _STEPS,
    _list("traits", 112),
)


def _unless_sensitive(name: str) -> Field[InspectionRule]:
    get = attrgetter(name)
    return Field(name, 1, lambda rule, _version: None if rule.sensitive else get(rule), sortable=False, schema={"type": ["array", "null"]})


RULE_FIELDS: tuple[Field[InspectionRule], ...] = (
    UUID,
    *TIMES,
    _text("description"),
    Field("priority", schema={"type": "integer"}),
    _text("phase"),
    _flag("sensitive"),
    _unless_sensitive("conditions"),
    _unless_sensitive("actions"),
)

CONNECTOR_FIELDS: tuple[Field[VolumeConnector], ...] = (
    UUID,
    *TIMES,
    _text("type"),
    _text("connector_id"),
    _object("extra"),
    Field("node_uuid", sortable=False, schema=_UUID),
)
TARGET_FIELDS: tuple[Field[VolumeTarget], ...] = (
    UUID,
    *TIMES,
    _text("volume_type"),
    _text("volume_id"),
    Field("boot_index", schema={"type": "integer"}),
    _object("properties", secret=True),
    _object("extra"),
    Field("node_uuid", sortable=False, schema=_UUID),
)


_LEASED: Mapping[str, Any] = {
    "last_error": "** Value Redacted - Requires baremetal:node:get:last_error permission. **",
    "reservation": "** Redacted - requires baremetal:node:get:reservation permission. **",
    "driver_info": {"content": "** Redacted - requires baremetal:node:get:driver_info permission. **"},
    "driver_internal_info": {"content": "** Redacted - Requires baremetal:node:get:driver_internal_info permission. **"},
}
"""What a project that leases a node reads in the place of what is its owner's."""
_HIDDEN: Mapping[str, Any] = {
    "properties": {
        "redacted_contents": "** Value redacted: Requires permission baremetal:volume:view_target_properties access. Permission denied. **"
    }
}


def _reduced(fields: Iterable[Field[Any]], said: Mapping[str, Any]) -> tuple[Field[Any], ...]:
    """Fields of which some read the same for every resource."""
    return tuple(replace(f, get=_constant(said[f.name])) if f.name in said else f for f in fields)


def _constant(value: Any) -> Callable[[Any, int], Any]:
    return lambda _thing, _version: value


class Views:
    """Every view.

    Args:
        conductor: the host name of the conductor that serves a node.
    """

    def __init__(self, conductor: Callable[[Node], str | None]) -> None:
        self.nodes: View[Node] = View(
            "nodes",
            "nodes",
            _node_fields(conductor),
            ("instance_uuid", "maintenance", "power_state", "provision_state", "uuid", "name"),
            links=NODE_LINKS,
            unknown="Field {} is not a valid field.",
        )
        self.leased_nodes: View[Node] = View(
            "nodes",
            "nodes",
            _reduced(self.nodes.fields.values(), _LEASED),
            self.nodes.default,
            links=NODE_LINKS,
            unknown=self.nodes.unknown,
        )
        self.ports: View[Port] = View("ports", "ports", PORT_FIELDS, ("uuid", "address"))
        self.chassis = ChassisView("chassis", "chassis", CHASSIS_FIELDS, ("uuid", "description"))
        self.conductors: View[Conductor] = View(
            "conductors", "conductors", CONDUCTOR_FIELDS, ("hostname", "conductor_group", "alive"), ident=attrgetter("hostname")
        )

        self.portgroups: View[Portgroup] = View(
            "portgroups", "portgroups", PORTGROUP_FIELDS, ("uuid", "address", "name"), links=(("ports", 1, "ports"),)
        )
        self.allocations: View[Allocation] = View(
            "allocations", "allocations", ALLOCATION_FIELDS, tuple(field.name for field in ALLOCATION_FIELDS), newer_is_unknown=True
        )
        self.templates: View[DeployTemplate] = View("deploy_templates", "deploy_templates", TEMPLATE_FIELDS, ("uuid", "name"))
        self.runbooks: View[Runbook] = View("runbooks", "runbooks", RUNBOOK_FIELDS, ("uuid", "name"), newer_is_unknown=True)
        self.rules: View[InspectionRule] = View(
            "inspection_rules", "inspection_rules", RULE_FIELDS, ("uuid", "priority", "phase", "description")
        )
        self.connectors: View[VolumeConnector] = View(
            "volume/connectors", "connectors", CONNECTOR_FIELDS, ("uuid", "node_uuid", "type", "connector_id")
        )
        self.targets: View[VolumeTarget] = View(
            "volume/targets", "targets", TARGET_FIELDS, ("uuid", "node_uuid", "volume_type", "boot_index", "volume_id")
        )
        self.hidden_targets: View[VolumeTarget] = View("volume/targets", "targets", _reduced(TARGET_FIELDS, _HIDDEN), self.targets.default)

    def named(self) -> dict[str, View[Any]]:
        """Each view by the name of one such resource."""
        return {
            "node": self.nodes,
            "port": self.ports,
            "chassis": self.chassis,
            "conductor": self.conductors,
            "portgroup": self.portgroups,
            "allocation": self.allocations,
            "deploy_template": self.templates,
            "runbook": self.runbooks,
            "inspection_rule": self.rules,
            "volume_connector": self.connectors,
            "volume_target": self.targets,
        }


def iso(moment: datetime | None) -> str | None:
    """A time as the wire writes it."""
    return moment.isoformat() if moment is not None else None
