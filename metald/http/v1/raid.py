"""`/v1/nodes/{node}/states/raid` and what drivers say of logical disks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.noop import Absent
from metald.errors import Invalid, NotFound
from metald.http.call import Call
from metald.http.route import Route
from metald.http.schema import NULLABLE_OBJECT, Schema, conform
from metald.http.v1 import lookups

_LEVELS = ("JBOD", "0", "1", "2", "5", "6", "1+0", "5+0", "6+0")
_NO_CRITERION = "If this is not specified, {} will not be a selection criterion for choosing backing physical disks. Optional."
_DISK: Mapping[str, tuple[Schema, str]] = {
    "raid_level": (
        {"type": "string", "enum": list(_LEVELS)},
        "RAID level for the logical disk. Valid values are 'JBOD', '0', '1', '2', '5', '6', '1+0', '5+0' and '6+0'. Required.",
    ),
    "size_gb": (
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "enum": ["MAX"]}]},
        (
            "Size in GiB (Integer) for the logical disk. "
            "Use 'MAX' as size_gb if this logical disk is supposed to use the rest of the space available. Required."
        ),
    ),
    "volume_name": (
        {"type": "string"},
        "Name of the volume to be created. If this is not specified, it will be auto-generated. Optional.",
    ),
    "is_root_volume": (
        {"type": "boolean"},
        "Specifies whether this disk is a root volume. By default, this is False. Optional.",
    ),
    "share_physical_disks": (
        {"type": "boolean"},
        "Specifies whether other logical disks can share physical disks with this logical disk. By default, this is False. Optional.",
    ),
    "disk_type": (
        {"type": "string", "enum": ["hdd", "ssd"]},
        f"The type of disk preferred. Valid values are 'hdd' and 'ssd'. {_NO_CRITERION.format('disk type')}",
    ),
    "interface_type": (
        {"type": "string", "enum": ["sata", "scsi", "sas"]},
        f"The interface type of disk. Valid values are 'sata', 'scsi' and 'sas'. {_NO_CRITERION.format('interface type')}",
    ),
    "number_of_physical_disks": (
        {"type": "integer", "minimum": 1},
        (
            "Number of physical disks to use for this logical disk. "
            "By default, the driver uses the minimum number of disks required for that RAID level. Optional."
        ),
    ),
    "controller": (
        {"type": "string"},
        (
            "Controller to use for this logical disk. "
            "If not specified, the driver will choose a suitable RAID controller on the bare metal node. Optional."
        ),
    ),
    "physical_disks": (
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "object"}, "minItems": 2},
            ]
        },
        (
            "The physical disks to use for this logical disk. "
            "If not specified, the driver will choose suitable physical disks to use. Optional."
        ),
    ),
}
RAID: Schema = {
    "type": "object",
    "properties": {
        "logical_disks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {name: schema for name, (schema, _) in _DISK.items()},
                "required": ["raid_level", "size_gb"],
                "dependentRequired": {"physical_disks": ["controller"]},
                "additionalProperties": False,
            },
        }
    },
    "required": ["logical_disks"],
    "additionalProperties": False,
}


async def set_raid(call: Call) -> None:
    """Store the wanted RAID; an empty one is none."""
    node = lookups.node(call)
    config = call.body or {}
    if config:
        _check(config)
    await call.services.hardware.set_raid(node.uuid, config, call.caller)


def _check(config: dict[str, Any]) -> None:
    try:
        conform(config, RAID, "RAID config")
    except Invalid as error:
        what = error.message.partition(": ")[2]
        raise Invalid(f"RAID config validation error: {what}", remedy=error.remedy, field=error.field) from None
    roots = sum(bool(disk.get("is_root_volume")) for disk in config["logical_disks"])
    if roots > 1:
        raise Invalid(f"Raid config cannot have more than one root volume. {roots} root volumes were specified", field="logical_disks")


async def logical_disk_properties(call: Call) -> dict[str, str]:
    """The properties that logical disks of a wanted RAID may have."""
    name = lookups.driver(call)
    registry = call.services.registry
    if isinstance(registry.interface("raid", registry.default(name, "raid")), Absent):
        raise NotFound(f"Driver {name} does not support raid (disabled or not implemented).", field="driver")
    return {name: text for name, (_, text) in _DISK.items()}


ROUTES = (
    Route(
        "PUT",
        "/v1/nodes/{node}/states/raid",
        set_raid,
        "Store the wanted RAID",
        since=12,
        too_old=406,
        body=NULLABLE_OBJECT,
        body_name="RAID config",
        status=204,
        policy="baremetal:node:set_raid_state",
    ),
    Route(
        "GET",
        "/v1/drivers/{driver}/raid/logical_disk_properties",
        logical_disk_properties,
        "Properties of logical disks",
        since=12,
        too_old=406,
        policy="baremetal:driver:get_raid_logical_disk_properties",
    ),
)
