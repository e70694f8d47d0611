"""`/v1/deploy_templates` and `/v1/runbooks`: steps under a name."""

from __future__ import annotations

from typing import Any

from metald import policy
from metald.errors import Invalid, NotFound
from metald.http import ownership, values
from metald.http.call import Call, Reply
from metald.http.crud import Collection
from metald.http.route import Route
from metald.http.schema import NULLABLE_BOOLEAN, NULLABLE_OBJECT, NULLABLE_UUID, Schema
from metald.http.v1.management import TRAITS, check_trait
from metald.http.v1.node_schema import ORDER, STEP_INTERFACES
from metald.model.catalogue import DeployTemplate, Runbook

_TRAITS_SINCE = 112
_DESCRIPTION: Schema = {"type": ["string", "null"], "maxLength": 255}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 255}


def _steps(number: str, required: list[str]) -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "interface": {"type": "string", "enum": list(STEP_INTERFACES)},
                "step": {"type": "string", "minLength": 1},
                "args": {"type": "object"},
                number: ORDER,
            },
            "required": required,
            "additionalProperties": False,
        },
    }


_TEMPLATE: dict[str, Schema] = {
    "name": _NAME,
    "steps": _steps("priority", ["interface", "step", "args", "priority"]),
    "extra": NULLABLE_OBJECT,
    "description": _DESCRIPTION,
}
_RUNBOOK: dict[str, Schema] = {
    "name": _NAME,
    "steps": _steps("order", ["interface", "step", "order"]),
    "disable_ramdisk": NULLABLE_BOOLEAN,
    "extra": NULLABLE_OBJECT,
    "public": NULLABLE_BOOLEAN,
    "owner": _DESCRIPTION,
    "description": _DESCRIPTION,
}


def _numbered(fields: dict[str, Any], number: str) -> None:
    if "steps" in fields:
        fields["steps"] = [{**step, "args": step.get("args", {}), number: int(step[number])} for step in fields["steps"]]


def _check_template(_call: Call, fields: dict[str, Any], _before: DeployTemplate | None) -> dict[str, Any]:
    if "name" in fields:
        check_trait(fields["name"])
    _numbered(fields, "priority")
    return fields


def _check_runbook(call: Call, fields: dict[str, Any], before: Runbook | None) -> dict[str, Any]:
    if "name" in fields:
        if call.version < _TRAITS_SINCE and (before is None or before.name != fields["name"]):
            check_trait(fields["name"])
        elif not values.is_name(fields["name"]):
            raise Invalid(f"Invalid runbook name {values.shown(fields['name'])}", field="name")
    if before is None:
        ownership.of_runbook(call, fields)
    if before is not None and fields.get("owner") and fields.get("public", before.public):
        raise Invalid("There cannot be an owner for a public runbook", field="owner")
    if before is not None and fields.get("public"):
        fields["owner"] = None
    _numbered(fields, "order")
    return fields


TEMPLATES: Collection[DeployTemplate] = Collection(
    kind=DeployTemplate,
    markers_are_names=True,
    path="deploy_templates",
    noun="deploy_template",
    policy="baremetal:deploy_template",
    view=lambda views: views.templates,
    room=lambda fleet: fleet.catalogue.templates,
    create={
        "type": "object",
        "properties": {**_TEMPLATE, "uuid": NULLABLE_UUID},
        "required": ["name", "steps"],
        "additionalProperties": False,
    },
    patchable=_TEMPLATE,
    since=55,
    checked=_check_template,
)
RUNBOOKS: Collection[Runbook] = Collection(
    kind=Runbook,
    markers_are_names=True,
    path="runbooks",
    noun="runbook",
    policy="baremetal:runbook",
    list_policy="list",
    view=lambda views: views.runbooks,
    room=lambda fleet: fleet.catalogue.runbooks,
    create={
        "type": "object",
        "properties": {**_RUNBOOK, "uuid": NULLABLE_UUID},
        "required": ["name", "steps"],
        "additionalProperties": False,
    },
    patchable=_RUNBOOK,
    since=92,
    checked=_check_runbook,
)


async def get_traits(call: Call) -> dict[str, Any]:
    """List a runbook's traits."""
    return {"traits": list(RUNBOOKS.find(call).traits)}


async def _set_traits(call: Call, wanted: set[str]) -> None:
    runbook = RUNBOOKS.find(call)
    await call.services.fleet.catalogue.runbooks.update(runbook.uuid, lambda _runbook: {"traits": sorted(wanted)}, call.caller)


async def replace_traits(call: Call) -> None:
    """Replace all traits of a runbook."""
    if "traits" not in call.body:
        raise Invalid("The list of traits must be given in the body, or one trait in the path", field="traits")
    await _set_traits(call, {check_trait(name) for name in call.body["traits"]})


async def add_trait(call: Call) -> Reply:
    """Add a trait to a runbook."""
    trait = check_trait(call.path["trait"])
    if call.body:
        raise Invalid("No body should be provided when adding a trait", field="body")
    await _set_traits(call, {*RUNBOOKS.find(call).traits, trait})
    return Reply(location=call.url(f"runbooks/{call.path['runbook']}/traits/{trait}"))


async def delete_traits(call: Call) -> None:
    """Remove all traits of a runbook."""
    await _set_traits(call, set())


async def delete_trait(call: Call) -> None:
    """Remove a trait of a runbook; one that it does not have is no error."""
    await _set_traits(call, set(RUNBOOKS.find(call).traits) - {call.path["trait"]})


def steps_of(call: Call, ident: str, traits: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """The steps of a runbook for a node, in order, and whether they need no ramdisk.

    Raises:
        Invalid: there is no such runbook, or the node does not carry the trait that lets it be used.
    """
    try:
        runbook = call.services.fleet.catalogue.runbooks.find(values.as_uuid(ident) or ident)
    except NotFound as error:
        raise Invalid(error.message, field="runbook") from None
    policy.require(call.caller, "baremetal:runbook:use", runbook)
    wanted = set(runbook.traits) if call.version >= _TRAITS_SINCE else {runbook.name}
    if not wanted:
        raise Invalid(f"Runbook {runbook.uuid} has no traits configured.", remedy="Add a trait to the runbook.", field="runbook")
    if not wanted & set(traits):
        raise Invalid(
            f"This runbook has not been approved for use on this node. The node has none of the traits {', '.join(sorted(wanted))}.",
            remedy="Add one of them to the node.",
            field="runbook",
        )
    ordered = sorted(runbook.steps, key=lambda step: int(step["order"]))
    return [{"interface": s["interface"], "step": s["step"], "args": s.get("args", {})} for s in ordered], runbook.disable_ramdisk


_ONE = "/v1/runbooks/{runbook}/traits"
ROUTES = (
    *TEMPLATES.routes(),
    *RUNBOOKS.routes(),
    Route("GET", _ONE, get_traits, "List a runbook's traits", since=_TRAITS_SINCE, policy="baremetal:runbook:get"),
    Route(
        "PUT",
        _ONE,
        replace_traits,
        "Replace a runbook's traits",
        since=_TRAITS_SINCE,
        body=TRAITS,
        status=204,
        policy="baremetal:runbook:update",
    ),
    Route("DELETE", _ONE, delete_traits, "Remove a runbook's traits", since=_TRAITS_SINCE, status=204, policy="baremetal:runbook:update"),
    Route(
        "PUT",
        f"{_ONE}/{{trait}}",
        add_trait,
        "Add a trait to a runbook",
        since=_TRAITS_SINCE,
        body={},
        status=204,
        policy="baremetal:runbook:update",
    ),
    Route(
        "DELETE",
        f"{_ONE}/{{trait}}",
        delete_trait,
        "Remove a trait of a runbook",
        since=_TRAITS_SINCE,
        status=204,
        policy="baremetal:runbook:update",
    ),
)
