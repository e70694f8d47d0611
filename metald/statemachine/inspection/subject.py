"""What hooks and rules work on: a node, its ports and what its ramdisk told, as plain JSON that is theirs to change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

NODE_FIELDS = frozenset(
    {
        *("automated_clean", "conductor_group", "description", "disable_power_off", "driver", "driver_info", "extra"),
        *("instance_info", "lessee", "name", "network_data", "owner", "properties", "protected", "protected_reason"),
        *("resource_class", "retired", "retired_reason", "shard", "bios_interface", "boot_interface", "console_interface"),
        *("deploy_interface", "firmware_interface", "inspect_interface", "management_interface", "network_interface"),
        *("power_interface", "raid_interface", "rescue_interface", "storage_interface", "vendor_interface"),
    }
)
"""Fields of a node that an inspection may change: those that a client may."""

PORT_FIELDS = frozenset(
    {
        *("available_for_dynamic_portgroup", "category", "description", "extra", "is_smartnic", "local_link_connection", "name"),
        *("physical_network", "pxe_enabled", "vendor"),
    }
)
"""Fields of a port that an inspection may change."""


@dataclass(slots=True)
class Subject:
    """One machine under inspection.

    Args:
        node: every field of the node.
        ports: every field of each of its ports; those without a `version` are new.
        inventory: what the ramdisk found; never changed.
        plugin_data: what else the ramdisk told, and what hooks and rules add.
        taken: MAC addresses of the inventory that ports of other nodes have.
    """

    node: Json
    ports: list[Json]
    inventory: Json
    plugin_data: Json
    taken: frozenset[str] = frozenset()
    serials_before: tuple[str, ...] = ()
    """Serial numbers of the disks that the inspection before this one found."""
    removed: set[str] = field(default_factory=set)
    """UUIDs of ports that shall go."""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Level and text of what rules want logged."""
