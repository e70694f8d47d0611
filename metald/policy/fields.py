"""Which rules a change of fields takes: a field with a rule of its own takes that one, all others the general one."""

from __future__ import annotations

from collections.abc import Iterable

_UPDATE = "baremetal:node:update"
_NODE = {
    "chassis_uuid": f"{_UPDATE}:chassis_uuid",
    "conductor_group": f"{_UPDATE}:conductor_group",
    "disable_power_off": f"{_UPDATE}:disable_power_off",
    "driver": f"{_UPDATE}:driver_interfaces",
    "driver_info": f"{_UPDATE}:driver_info",
    "extra": "baremetal:node:update_extra",
    "instance_info": "baremetal:node:update_instance_info",
    "instance_name": "baremetal:node:update_instance_info",
    "instance_uuid": f"{_UPDATE}:instance_uuid",
    "lessee": f"{_UPDATE}:lessee",
    "name": f"{_UPDATE}:name",
    "network_data": f"{_UPDATE}:network_data",
    "owner": f"{_UPDATE}:owner",
    "parent_node": f"{_UPDATE}:parent_node",
    "properties": f"{_UPDATE}:properties",
    "retired": f"{_UPDATE}:retired",
    "retired_reason": f"{_UPDATE}:retired",
    "shard": f"{_UPDATE}:shard",
}


def node_rules(fields: Iterable[str], *, disables_cleaning: bool = False) -> list[str]:
    """The rules that a change of these fields of a node takes, all of them.

    Args:
        fields: names of fields.
        disables_cleaning: whether the change sets `automated_clean` to false.
    """
    found: dict[str, None] = {}
    for name in fields:
        if name.endswith("_interface"):
            rule = f"{_UPDATE}:driver_interfaces"
        elif name == "automated_clean" and disables_cleaning:
            rule = "baremetal:node:disable_cleaning"
        else:
            rule = _NODE.get(name, _UPDATE)
        found[rule] = None
    return list(found) or [_UPDATE]


def runbook_rules(fields: Iterable[str]) -> list[str]:
    """The rules that a change of these fields of a runbook takes, all of them."""
    found = {f"baremetal:runbook:update:{name}" if name in ("owner", "public") else "baremetal:runbook:update": None for name in fields}
    return list(found) or ["baremetal:runbook:update"]
