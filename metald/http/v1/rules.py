"""`/v1/inspection_rules`: what to do with what inspection finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metald.errors import Invalid
from metald.http.call import Call
from metald.http.crud import Collection
from metald.http.route import Arg
from metald.http.schema import NULLABLE_BOOLEAN, NULLABLE_UUID, Schema
from metald.model.catalogue import InspectionRule
from metald.statemachine.inspection import rules as inspection_rules
from metald.statemachine.inspection.actions import ACTIONS

_ARGS: Schema = {"type": ["object", "array"]}
_LOOP: Schema = {"type": ["object", "array", "string"]}
_FIELDS: dict[str, Schema] = {
    "description": {"type": ["string", "null"], "maxLength": 255},
    "priority": {"type": "integer", "minimum": 0},
    "phase": {"type": ["string", "null"], "enum": ["main", None]},
    "sensitive": NULLABLE_BOOLEAN,
    "conditions": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "op": {"type": "string"},
                "args": _ARGS,
                "loop": _LOOP,
                "multiple": {"type": "string", "enum": ["any", "all", "first", "last"]},
            },
            "required": ["op", "args"],
            "additionalProperties": False,
        },
    },
    "actions": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"op": {"type": "string", "enum": list(ACTIONS)}, "args": _ARGS, "loop": _LOOP},
            "required": ["op", "args"],
            "additionalProperties": False,
        },
    },
}


def _checked(_call: Call, fields: dict[str, Any], before: InspectionRule | None) -> dict[str, Any]:
    inspection_rules.check(fields.get("conditions") or (), fields.get("actions") or ())
    if fields.get("priority", 0) > 9999:
        raise Invalid("Priority must be between 0 and 9999 for user-defined rules.", field="priority")
    if before is not None and before.sensitive and fields.get("sensitive", True) in (False, None):
        raise Invalid("A sensitive inspection rule can not be made public again", field="sensitive")
    return fields


def _of_phase(call: Call, rules: Iterable[InspectionRule]) -> Iterable[InspectionRule]:
    return rules if "phase" not in call.args else [rule for rule in rules if rule.phase == call.args["phase"]]


RULES: Collection[InspectionRule] = Collection(
    kind=InspectionRule,
    markers_are_names=True,
    path="inspection_rules",
    noun="inspection_rule",
    policy="baremetal:inspection_rule",
    view=lambda views: views.rules,
    room=lambda fleet: fleet.catalogue.rules,
    create={"type": "object", "properties": {**_FIELDS, "uuid": NULLABLE_UUID}, "required": ["actions"], "additionalProperties": False},
    patchable=_FIELDS,
    since=96,
    named=False,
    checked=_checked,
    filters=(Arg("phase"),),
    filtered=_of_phase,
)

ROUTES = RULES.routes()
