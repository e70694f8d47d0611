"""Ironic's notification payloads: the fields and versions of each, and the form in which a value stands in them.

Field lists and versions are those of Ironic's objects (ironic/objects/*.py, release 39), and so is what is withheld
(`redact_sensitive_fields` there): those who read from a broker are not asked for a role.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from metald.model import Chassis, Node, Port, Resource
from metald.model.catalogue import Allocation, DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget
from metald.model.masking import masked

_WITHHELD = MappingProxyType({"redacted_contents": "** Value redacted: not published on the notification bus. **"})


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


class Told(NamedTuple):
    """A kind of resource as Ironic tells of it."""

    kind: type[Resource]
    word: str
    """Its name in event types."""
    crud: str
    """The payload of its creation, updates and deletion."""


RESOURCES: MappingProxyType[str, Told] = MappingProxyType(
    {
        "node": Told(Node, "node", "NodeCRUDPayload"),
        "port": Told(Port, "port", "PortCRUDPayload"),
        "portgroup": Told(Portgroup, "portgroup", "PortgroupCRUDPayload"),
        "chassis": Told(Chassis, "chassis", "ChassisCRUDPayload"),
        "allocation": Told(Allocation, "allocation", "AllocationCRUDPayload"),
        "deploy_template": Told(DeployTemplate, "deploytemplate", "DeployTemplateCRUDPayload"),
        "runbook": Told(Runbook, "runbook", "RunbookCRUDPayload"),
        "volume_connector": Told(VolumeConnector, "volumeconnector", "VolumeConnectorCRUDPayload"),
        "volume_target": Told(VolumeTarget, "volumetarget", "VolumeTargetCRUDPayload"),
        "inspection_rule": Told(InspectionRule, "inspectionrule", "InspectionRuleCRUDPayload"),
    }
)
"""By the first word of our event types."""

_OWN = frozenset({"uuid", "created_at"})
"""What each resource has its own of, so that a default says nothing."""


def blank(kind: type[Resource]) -> dict[str, Any]:
    """What stands for a resource of which nothing is left: defaults, and empty texts where Ironic's consumers take no null."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in _OWN:
            made = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
            found[field.name] = "" if made is msgspec.NODEFAULT else made() if callable(made) else made
    return found


def payload(name: str, facts: Mapping[str, Any], resource: Resource | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """A payload in the form of a versioned object.

    Args:
        name: which.
        facts: what its event knows better than anything else.
        resource: of what it tells.
        known: what is put for fields that neither has.
    """
    version, fields = PAYLOADS[name]
    data = {field: _plain(facts[field] if field in facts else getattr(resource, field, known.get(field))) for field in fields}
    return {
        "ironic_object.namespace": "ironic",
        "ironic_object.name": name,
        "ironic_object.version": version,
        "ironic_object.data": _withheld(name, masked(data)),
    }


def _withheld(name: str, data: dict[str, Any]) -> dict[str, Any]:
    if name == "VolumeTargetCRUDPayload" and data["properties"]:
        return data | {"properties": dict(_WITHHELD)}
    if name == "InspectionRuleCRUDPayload" and data["sensitive"]:
        return data | {"actions": [dict(_WITHHELD)], "conditions": [dict(_WITHHELD)]}
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value
