"""What answers look like, as JSON Schema: of everything that is not a resource with a table of fields.

`ANSWERS` says it for each operation; what stands in `views` is told of by its own fields. Schemas are open: clients must
bear fields that they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.boot.doctor.diagnosis import STAGES
from metald.http.schema import Schema
from metald.model import INTERFACES

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NULL_TEXT: Schema = {"type": ["string", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
NULL_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
TEXTS: Schema = {"type": "array", "items": TEXT}
ANY: Schema = {}


def record(properties: Mapping[str, Schema], *optional: str) -> dict[str, Any]:
    """An object whose properties are all there, but for the optional ones."""
    return {"type": "object", "properties": dict(properties), "required": [name for name in properties if name not in optional]}


def listed(key: str, item: Schema, *, paged: bool = False) -> dict[str, Any]:
    """A collection under its key."""
    found: dict[str, Schema] = {key: {"type": "array", "items": item}}
    return record({**found, "next": {"type": "string", "format": "uri"}}, "next") if paged else record(found)


LINK = record({"href": TEXT, "rel": TEXT, "type": TEXT}, "type")
LINKS: Schema = {"type": "array", "items": LINK}

_OWN: Schema = record(
    {
        "code": {"type": "string", "description": "The cause; it never changes its meaning."},
        "field": {"type": ["string", "null"], "description": "What of the request is at fault."},
        "remedy": {"type": ["string", "null"], "description": "What to do in this case."},
        "docs": {"type": "string", "description": "Where the code is explained, relative to the daemon."},
    }
)
_WRAPPED = {
    **record(
        {
            "error_message": {
                "type": "string",
                "contentMediaType": "application/json",
                "description": "JSON in a string: `faultcode`, `faultstring` from handlers; `code`, `title`, `description` from routing.",
            },
            "metald": _OWN,
        },
    ),
    "description": "An error. `metald` holds the cause as a code, the field at fault and the remedy.",
}
_BARE = {**record({"faultcode": TEXT, "faultstring": TEXT, "metald": _OWN}), "description": "The body is too large or nested too deeply."}
_LOGIN = {
    **record({"error": record({"message": TEXT, "code": {"type": "integer"}})}),
    "description": "The credentials are missing or wrong.",
}

BULK: Schema = {
    "type": "object",
    "properties": {
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "status": {"type": "integer"},
                    "uuid": {"type": "string", "format": "uuid"},
                    "name": {"type": ["string", "null"]},
                    "location": {"type": "string"},
                    "error": {"type": "object"},
                },
                "required": ["index", "status"],
            },
        },
        "created": {"type": "integer"},
        "failed": {"type": "integer"},
    },
    "required": ["nodes", "created", "failed"],
}
"""What answers an array of nodes, item by item."""

ERROR: Schema = {"anyOf": [_WRAPPED, _BARE, _LOGIN]}
"""Every error."""

_VERSION = record({"id": TEXT, "links": LINKS, "status": TEXT, "min_version": TEXT, "version": TEXT})
_ROOT = record({"name": TEXT, "description": TEXT, "default_version": _VERSION, "versions": {"type": "array", "items": _VERSION}})
_V1 = record({"id": TEXT, "links": LINKS, "media_types": {"type": "object"}, "version": _VERSION})
_VALIDATION: Schema = {"type": "object", "additionalProperties": record({"result": FLAG, "reason": TEXT}, "reason")}
_DRIVER: dict[str, Schema] = {"name": TEXT, "hosts": TEXTS, "links": LINKS, "properties": LINKS, "type": TEXT}
_INTERFACES: dict[str, Schema] = {
    name: schema
    for kind in INTERFACES
    for name, schema in ((f"default_{kind}_interface", NULL_TEXT), (f"enabled_{kind}_interfaces", TEXTS))
}
_DRIVER_SCHEMA: Schema = {"type": "object", "properties": {**_DRIVER, **_INTERFACES}, "required": ["links"]}
_METHODS: Schema = {
    "type": "object",
    "additionalProperties": record(
        {"http_methods": TEXTS, "async": FLAG, "description": TEXT, "attach": FLAG, "require_exclusive_lock": FLAG}
    ),
}
_TEXT_BY_NAME: Schema = {"type": "object", "additionalProperties": TEXT}
_INDICATOR = record({"name": TEXT, "component": TEXT, "readonly": FLAG, "states": TEXTS, "links": LINKS})
_BIOS: Schema = {
    "type": "object",
    "properties": {
        "created_at": NULL_TIME,
        "updated_at": NULL_TIME,
        "name": TEXT,
        "value": NULL_TEXT,
        "attribute_type": NULL_TEXT,
        "allowable_values": {"type": ["array", "null"]},
        **{name: {"type": ["integer", "null"]} for name in ("lower_bound", "upper_bound", "min_length", "max_length")},
        **{name: {"type": ["boolean", "null"]} for name in ("read_only", "reset_required", "unique")},
        "links": LINKS,
    },
    "required": ["created_at", "updated_at", "links"],
}
_FIRMWARE: Schema = {
    "type": "object",
    "properties": {
        "created_at": NULL_TIME,
        "updated_at": NULL_TIME,
        "component": TEXT,
        **dict.fromkeys(("initial_version", "current_version", "last_version_flashed", "vendor", "model", "serial_number"), NULL_TEXT),
    },
}
_HISTORY: Schema = {
    "type": "object",
    "properties": {
        "uuid": UUID,
        "created_at": TIME,
        "severity": {"type": "string", "enum": ["INFO", "ERROR"]},
        "event": TEXT,
        "links": LINKS,
        **dict.fromkeys(("event_type", "conductor", "user", "project", "state", "target_provision_state"), NULL_TEXT),
        "duration_seconds": {"type": ["number", "null"]},
    },
    "required": ["uuid", "created_at", "severity", "event", "links"],
}
_SEQ: Schema = {"type": "integer", "minimum": 0}
_EVENT = record(
    {
        "type": TEXT,
        "node_uuid": {"type": ["string", "null"], "format": "uuid"},
        "subject": NULL_TEXT,
        "data": {"type": "object"},
        "severity": TEXT,
        "user": NULL_TEXT,
        "time": TIME,
        "id": UUID,
        "seq": _SEQ,
    }
)
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
_BOOT = record(
    {
        "node_uuid": {"type": ["string", "null"], "format": "uuid"},
        "began_at": TIME,
        **dict.fromkeys(("powered_on_at", "last_seen_at", "ramdisk_called_at"), NULL_TIME),
        "stage": {"type": "string", "enum": list(STAGES)},
        "seen": TEXT,
        "stopped_for": {"type": ["number", "null"]},
        **dict.fromkeys(("cause", "likely", "remedy", "architecture"), NULL_TEXT),
        **dict.fromkeys(("mac", "machines", "addresses"), TEXTS),
        "warnings": {"type": "array", "items": record(dict.fromkeys(("cause", "likely", "remedy"), TEXT))},
        "retransmits": {"type": "integer"},
        **dict.fromkeys(("dhcp", "files"), _OBJECTS),
    }
)
_LOOKUP = record(
    {
        "node": record({"uuid": UUID, "properties": ANY, "instance_info": ANY, "driver_internal_info": ANY, "links": LINKS}),
        "config": record({"heartbeat_timeout": {"type": "integer"}, "agent_token": NULL_TEXT, "agent_token_required": FLAG}),
    }
)
_VOLUME = record({"connectors": LINKS, "targets": LINKS, "links": LINKS})
_STATUS = record({"status": TEXT})
_NODE, _DRIVER_PATH = "/v1/nodes/{node}", "/v1/drivers/{driver}"


def _of(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_BLOCKER = record({"code": TEXT, "text": TEXT, "remedy": TEXT, "field": NULL_TEXT})
_CAUSE = record({"code": TEXT, "text": TEXT, "remedy": TEXT, "field": NULL_TEXT, "blocks": TEXTS, "since": NULL_TIME})
NUMBER: Schema = {"type": "number"}
_PLANNED_STEP = record(
    {
        "interface": TEXT,
        "step": TEXT,
        "args": {"type": "object"},
        "priority": {"type": "integer"},
        "what": {"type": "string", "description": "What it does, in a sentence."},
        "touches": {"type": "string", "description": "Which hardware it touches."},
        "abortable": FLAG,
        "usual": {
            "anyOf": [{"type": "null"}, record({"seconds": NUMBER, "samples": {"type": "integer"}, "basis": TEXT})],
            "description": "How long it took before; null: it never ran.",
        },
    }
)
_PLAN: Schema = {
    **record(
        {
            "uuid": UUID,
            "name": NULL_TEXT,
            "verb": TEXT,
            "from": TEXT,
            "through": NULL_TEXT,
            "to": NULL_TEXT,
            "possible": FLAG,
            "blockers": {"type": "array", "items": _BLOCKER},
            "steps": {"type": "array", "items": _PLANNED_STEP},
            "estimate": record({"seconds": NUMBER, "complete": FLAG, "unknown": ANY}),
        }
    ),
    "description": "`?plan=1`: what the verb would do, how long that usually takes, and what stands against it.",
}

ANSWERS: Mapping[str, Schema] = {
    "GET /": _ROOT,
    "GET /v1": _V1,
    "GET /v1/nodes/validate": _VALIDATION,
    f"GET {_NODE}/validate": _VALIDATION,
    f"GET {_NODE}/states": {"type": "object", "required": ["power_state", "provision_state"], "properties": {"last_error": NULL_TEXT}},
    f"GET {_NODE}/states/console": record({"console_enabled": FLAG, "console_info": {"type": ["object", "null"]}}),
    f"GET {_NODE}/management/boot_device": record({"boot_device": NULL_TEXT, "persistent": {"type": ["boolean", "null"]}}),
    f"GET {_NODE}/management/boot_device/supported": record({"supported_boot_devices": TEXTS}),
    f"GET {_NODE}/management/indicators": listed("indicators", _INDICATOR),
    f"GET {_NODE}/management/indicators/{{indicator}}": record({"state": NULL_TEXT}),
    f"GET {_NODE}/traits": record({"traits": TEXTS}),
    "GET /v1/runbooks/{runbook}/traits": record({"traits": TEXTS}),
    f"GET {_NODE}/vifs": listed("vifs", {"type": "object"}),
    f"GET {_NODE}/vendor_passthru/methods": _METHODS,
    f"GET {_DRIVER_PATH}/vendor_passthru/methods": _METHODS,
    f"GET {_NODE}/bios": listed("bios", _BIOS),
    f"GET {_NODE}/bios/{{setting}}": {"type": "object", "additionalProperties": _BIOS},
    f"GET {_NODE}/firmware": listed("firmware", _FIRMWARE),
    f"GET {_NODE}/history": listed("history", _HISTORY, paged=True),
    f"GET {_NODE}/history/{{event}}": _HISTORY,
    f"GET {_NODE}/inventory": record({"inventory": {"type": "object"}, "plugin_data": {"type": "object"}}),
    f"GET {_NODE}/children": record({"children": {"type": "array", "items": UUID}, "links": LINK}),
    f"GET {_NODE}/management/sensors": listed("sensors", {"type": "object"}),
    f"GET {_NODE}/management/parts": listed("parts", {"type": "object"}),
    f"GET {_NODE}/management/network": record({"network": {"type": "object"}}),
    f"GET {_NODE}/management/event_log": listed("event_log", {"type": "object"}),
    f"GET {_NODE}/management/exchange": record({"exchange": {"type": "array"}}),
    f"GET {_NODE}/timeline": listed("timeline", _EVENT),
    f"GET {_NODE}/boots": listed("boots", _BOOT),
    "GET /v1/boots": listed("boots", _BOOT),
    "GET /v1/boots/{mac}": listed("boots", _BOOT),
    f"PUT {_NODE}/states/provision": _PLAN,
    f"GET {_NODE}/explain": record(
        {
            "uuid": UUID,
            "name": NULL_TEXT,
            "provision_state": TEXT,
            "target_provision_state": NULL_TEXT,
            "available": FLAG,
            "deployable": FLAG,
            "summary": TEXT,
            "causes": {"type": "array", "items": _CAUSE},
            "way_to_available": TEXTS,
            "verbs": {"type": "object", "additionalProperties": {"type": "array", "items": _BLOCKER}},
        }
    ),
    f"GET {_NODE}/progress": record({"progress": {"type": "object"}}),
    f"GET {_NODE}/portgroups": _of("portgroup_list"),
    f"GET {_NODE}/portgroups/detail": _of("portgroup_list"),
    f"GET {_NODE}/volume": _VOLUME,
    f"GET {_NODE}/volume/connectors": _of("volume_connector_list"),
    f"GET {_NODE}/volume/targets": _of("volume_target_list"),
    "GET /v1/volume": _VOLUME,
    "GET /v1/portgroups/{portgroup}/ports": _of("port_list"),
    "GET /v1/portgroups/{portgroup}/ports/detail": _of("port_list"),
    "GET /v1/drivers": listed("drivers", _DRIVER_SCHEMA),
    f"GET {_DRIVER_PATH}": _DRIVER_SCHEMA,
    f"GET {_DRIVER_PATH}/properties": _TEXT_BY_NAME,
    f"GET {_DRIVER_PATH}/raid/logical_disk_properties": _TEXT_BY_NAME,
    "GET /v1/conductors": _of("conductor_list"),
    "GET /v1/conductors/{conductor}": _of("conductor"),
    "GET /v1/shards": listed("shards", record({"name": TEXT, "count": {"type": "integer", "minimum": 1}})),
    "GET /v1/lookup": _LOOKUP,
    "POST /v1/continue_inspection": {"anyOf": [record({"uuid": UUID}), _LOOKUP]},
    "GET /v1/events": record({"events": {"type": "array", "items": _EVENT}, "first_seq": _SEQ, "last_seq": _SEQ, "next": _SEQ}),
    "GET /openapi.json": {"type": "object", "required": ["openapi", "info", "paths"]},
    "GET /v1/openapi.json": {"type": "object", "required": ["openapi", "info", "paths"]},
    "GET /asyncapi.json": {"type": "object", "required": ["asyncapi", "info"]},
    "GET /healthz": _STATUS,
    "GET /readyz": _STATUS,
}
"""By method and path: what the body of a success says."""
