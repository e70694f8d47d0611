"""`/v1/allocations`: claims on nodes, and the claim of one node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from metald.errors import Invalid, NotFound
from metald.http import ownership, values
from metald.http.call import Call, Reply
from metald.http.crud import Collection
from metald.http.route import FIELDS, IDENTIFIER, Arg, Route
from metald.http.schema import NULLABLE_OBJECT, NULLABLE_TEXT, NULLABLE_UUID, Schema
from metald.http.v1 import lookups
from metald.http.v1.management import check_trait
from metald.model import Node
from metald.model.catalogue import Allocation

_CHANGE_SINCE = 57
_BACKFILL_SINCE = 58
_LIST: Schema = {"type": ["array", "null"], "items": {"type": "string", "maxLength": 255}}
_CREATE: Schema = {
    "type": "object",
    "properties": {
        "candidate_nodes": _LIST,
        "extra": NULLABLE_OBJECT,
        "name": NULLABLE_TEXT,
        "node": NULLABLE_TEXT,
        "owner": {"type": ["string", "null"], "maxLength": 255},
        "resource_class": {"type": ["string", "null"], "maxLength": 80},
        "traits": _LIST,
        "uuid": NULLABLE_UUID,
    },
    "additionalProperties": False,
}


def _filtered(call: Call, allocations: Iterable[Allocation]) -> Iterable[Allocation]:
    args = call.args
    if "node" in args:
        owner = _known_node(call, args["node"], "node")
        allocations = [a for a in allocations if a.node_uuid == owner.uuid]
    for name in ("resource_class", "state", "owner"):
        if name in args:
            allocations = [a for a in allocations if getattr(a, name) == args[name]]
    return allocations


def _checked(_call: Call, fields: dict[str, Any], _before: Allocation | None) -> dict[str, Any]:
    if fields.get("name") and not values.is_name(fields["name"]):
        raise Invalid(f"Cannot create allocation with invalid name {values.shown(fields['name'])}", field="name")
    return fields


ALLOCATIONS: Collection[Allocation] = Collection(
    kind=Allocation,
    path="allocations",
    noun="allocation",
    policy="baremetal:allocation",
    list_policy="list",
    view=lambda views: views.allocations,
    room=lambda fleet: fleet.allocations,
    create=_CREATE,
    patchable={"name": NULLABLE_TEXT, "extra": NULLABLE_OBJECT},
    since=52,
    filters=(Arg("node", IDENTIFIER), Arg("resource_class"), Arg("state"), Arg("owner", since=60)),
    filtered=_filtered,
    checked=_checked,
    full_by_default=True,
)


def _known_node(call: Call, ident: str, field: str) -> Node:
    try:
        return lookups.node(call, values.identifier(field, ident))
    except NotFound as error:
        raise Invalid(error.message, field=field) from None


def _candidates(call: Call, idents: Iterable[str]) -> list[str]:
    """The UUIDs of candidate nodes.

    Raises:
        Invalid: naming all that are not there.
    """
    found, missing = [], []
    for ident in idents:
        try:
            found.append(_known_node(call, ident, "candidate_nodes").uuid)
        except Invalid:
            missing.append(values.bare(ident))
    if missing:
        raise Invalid(f"Nodes cannot be found: {', '.join(missing)}", field="candidate_nodes")
    return found


async def create(call: Call) -> Reply:
    """Claim a node. The answer shows the claim before it is decided, as Ironic does."""
    body = {name: value for name, value in call.body.items() if value is not None}
    ALLOCATIONS.refuse_newer(call, [name for name in body if name != "node"])
    _checked(call, body, None)
    ownership.of_allocation(call, body)
    given = body.pop("node", None)
    if given is not None and call.version < _BACKFILL_SINCE:
        raise Invalid("Cannot set node when creating an allocation in this API version", field="node")
    node = _known_node(call, given, "node") if given is not None else None
    if not body.get("resource_class"):
        if node is None:
            raise Invalid("The resource_class field is mandatory when not backfilling", field="resource_class")
        body["resource_class"] = node.resource_class
    for trait in body.get("traits", ()):
        check_trait(trait)
    body["candidate_nodes"] = _candidates(call, body.get("candidate_nodes", ()))
    if node is None:
        made = await call.services.fleet.allocations.claim(body, call.caller)
    else:
        if node.instance_uuid is not None:
            body.setdefault("uuid", node.instance_uuid)
        made = await call.services.fleet.allocations.backfill(body, node, call.caller)
    view = call.services.views.allocations
    return Reply(view.one(made, call.version, call.base), location=call.url(f"allocations/{made.uuid}"))


def _node_of_path(call: Call) -> Node:
    """The node of the path. Not being there is 400, as in Ironic: 404 says that it has no allocation."""
    try:
        return lookups.node(call)
    except NotFound as error:
        raise Invalid(error.message, remedy=error.remedy, field=error.field) from None


async def show_of_node(call: Call) -> bytes:
    """Show the allocation of a node."""
    node = _node_of_path(call)
    view = call.services.views.allocations
    names = view.check(call.args["fields"], call.version) if call.args else None
    return view.one(call.services.fleet.allocations.of_node(node), call.version, call.base, names)


async def delete_of_node(call: Call) -> None:
    """Delete the allocation of a node."""
    found = call.services.fleet.allocations.of_node(_node_of_path(call))
    await call.services.fleet.allocations.delete(found.uuid, call.caller)


_OWN = {("POST", "/v1/allocations"): create}
_NODE = "/v1/nodes/{node}/allocation"


def _routes() -> tuple[Route, ...]:
    found = (replace(route, handler=_OWN.get((route.method, route.path), route.handler)) for route in ALLOCATIONS.routes())
    return tuple(replace(route, since=_CHANGE_SINCE) if route.method == "PATCH" else route for route in found)


ROUTES = (
    *_routes(),
    Route(
        "GET",
        _NODE,
        show_of_node,
        "Show a node's allocation",
        since=52,
        args=(FIELDS,),
        policy="baremetal:allocation:get",
        answer="allocation",
    ),
    Route("DELETE", _NODE, delete_of_node, "Delete a node's allocation", since=52, status=204, policy="baremetal:allocation:delete"),
)
