"""What bodies may say of a node."""

from __future__ import annotations

from typing import Any

from metald.http.schema import NULLABLE_BOOLEAN, NULLABLE_OBJECT, NULLABLE_TEXT, NULLABLE_UUID, Schema
from metald.http.v1.network_data import NETWORK_DATA
from metald.model import INTERFACES

BOUNDED_TEXT: Schema = {"type": ["string", "null"], "maxLength": 255}

SHARED: dict[str, Schema] = {
    "automated_clean": NULLABLE_BOOLEAN,
    **{f"{kind}_interface": NULLABLE_TEXT for kind in INTERFACES},
    "chassis_uuid": NULLABLE_UUID,
    "conductor_group": BOUNDED_TEXT,
    "description": {"type": ["string", "null"], "maxLength": 4096},
    "disable_power_off": NULLABLE_BOOLEAN,
    "driver": {"type": "string"},
    "driver_info": NULLABLE_OBJECT,
    "extra": NULLABLE_OBJECT,
    "instance_info": NULLABLE_OBJECT,
    "instance_name": {"type": ["string", "null"], "minLength": 1, "maxLength": 255},
    "instance_uuid": NULLABLE_UUID,
    "lessee": BOUNDED_TEXT,
    "maintenance": NULLABLE_BOOLEAN,
    "name": NULLABLE_TEXT,
    "network_data": NETWORK_DATA,
    "owner": BOUNDED_TEXT,
    "parent_node": BOUNDED_TEXT,
    "properties": NULLABLE_OBJECT,
    "resource_class": {"type": ["string", "null"], "maxLength": 80},
    "retired": NULLABLE_BOOLEAN,
    "retired_reason": NULLABLE_TEXT,
    "shard": BOUNDED_TEXT,
}
"""Fields that may be set at creation and changed later."""

PATCHABLE: dict[str, Schema] = {**SHARED, "protected": NULLABLE_BOOLEAN, "protected_reason": NULLABLE_TEXT}
"""Fields that a patch may touch."""

CREATE: Schema = {
    "type": "object",
    "properties": {
        **SHARED,
        "boot_mode": NULLABLE_TEXT,
        "console_enabled": NULLABLE_BOOLEAN,
        "secure_boot": NULLABLE_BOOLEAN,
        "uuid": NULLABLE_UUID,
    },
    "required": ["driver"],
    "additionalProperties": False,
}

RESERVED: tuple[str, ...] = ("maintenance", "management", "states", "vendor_passthru", "detail", "validate")
"""Names that no node may have: they are paths."""

STEP_INTERFACES = ("vendor", "power", "management", "firmware", "deploy", "bios", "raid")
ORDER: Schema = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1, "pattern": r"^[0-9]+$"}]}
STEPS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "interface": {"type": "string", "enum": list(STEP_INTERFACES)},
            "step": {"type": "string", "minLength": 1},
            "args": {"type": "object"},
            "order": ORDER,
            "execute_on_child_nodes": {"type": "boolean"},
            "limit_child_node_execution": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["interface", "step"],
        "additionalProperties": False,
    },
}
DEPLOY_STEPS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "interface": {"type": "string", "enum": list(STEP_INTERFACES)},
            "step": {"type": "string", "minLength": 1},
            "args": {"type": "object"},
            "priority": ORDER,
        },
        "required": ["interface", "step", "args", "priority"],
        "additionalProperties": False,
    },
}
CONFIGDRIVE: Schema = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "meta_data": {"type": "object"},
                "network_data": {"type": "object"},
                "user_data": {"type": ["object", "array", "string", "null"]},
                "vendor_data": {"type": "object"},
            },
            "additionalProperties": False,
        },
        {"type": ["string", "null"]},
    ]
}
_ANY: dict[str, Any] = {}
PROVISION: Schema = {
    "type": "object",
    "properties": {
        "target": {"type": "string"},
        "configdrive": _ANY,
        "clean_steps": _ANY,
        "deploy_steps": _ANY,
        "service_steps": _ANY,
        "rescue_password": NULLABLE_TEXT,
        "disable_ramdisk": NULLABLE_BOOLEAN,
        "runbook": NULLABLE_TEXT,
    },
    "required": ["target"],
    "additionalProperties": False,
}
