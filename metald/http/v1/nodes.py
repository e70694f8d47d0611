"""`/v1/nodes`: create, list, show, change, delete, validate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from metald.errors import Invalid, NotAcceptable, NotFound
from metald.http import conditional, listing, ownership, patch, sight, values
from metald.http.call import Call, Reply
from metald.http.problem import RoutingError
from metald.http.route import BOOLEAN, DETAIL, FIELDS, IDENTIFIER, PAGING, UUID, Arg, Kind, Route
from metald.http.schema import conform
from metald.http.v1 import lookups
from metald.http.v1.node_schema import PATCHABLE, RESERVED
from metald.model import Chassis, Fault, Node, ProvisionState

NAMES = Kind(lambda name, text: [w for w in values.text(name, text).split(",") if w], {"type": "array", "items": {"type": "string"}})

FILTERS: tuple[Arg, ...] = (
    Arg("chassis_uuid", UUID),
    Arg("instance_uuid", UUID),
    Arg("associated", BOOLEAN),
    Arg("maintenance", BOOLEAN),
    Arg("retired", BOOLEAN),
    Arg("provision_state", since=9),
    Arg("driver", since=16),
    Arg("resource_class", since=21),
    Arg("fault", since=42),
    Arg("conductor_group", since=46),
    Arg("conductor", since=49),
    Arg("owner", since=50),
    Arg("description_contains"),
    Arg("lessee", since=65),
    Arg("project"),
    Arg("shard", NAMES, 82),
    Arg("sharded", BOOLEAN, 82),
    Arg("include_children", BOOLEAN, 83),
    Arg("parent_node", since=83),
    Arg("instance_name", since=104),
)
STAMP = conditional.Tables(Node, Chassis)
"""The state of lists of nodes."""
_EQUAL = ("chassis_uuid", "maintenance", "retired", "driver", "resource_class", "fault", "owner", "lessee", "instance_name")


async def create(call: Call) -> Reply:
    """Create a node."""
    node = await call.services.fleet.nodes.add(prepared(call, call.body), call.caller)
    return Reply(sight.node_view(call, node).one(node, call.version, call.base), location=call.url(f"nodes/{node.uuid}"))


def prepared(call: Call, given: Mapping[str, Any]) -> Node:
    """A node of the fields that a client gave, ready to be added."""
    body = {name: value for name, value in given.items() if not (name == "uuid" and value is None)}
    _refuse_newer(
        call, {name: value for name, value in body.items() if value is not None and not (name == "conductor_group" and not value)}
    )
    if body.get("name") is not None:
        _check_name(call, body["name"], "Cannot create node with invalid name '{}'")
    if body.get("parent_node"):
        body["parent_node"] = _parent(call, body["parent_node"])
    ownership.of_node(call, body)
    body["provision_state"] = ProvisionState.ENROLL if call.version >= 11 else ProvisionState.AVAILABLE
    return call.services.fleet.nodes.prepared(body)


def _refuse_newer(call: Call, fields: Mapping[str, Any]) -> None:
    known = call.services.views.nodes.fields
    for name in fields:
        if name in known and known[name].since > call.version:
            raise NotAcceptable("Request not acceptable.", remedy=f"Field {name} needs version 1.{known[name].since}.", field=name)


def _check_name(call: Call, name: str, refusal: str) -> None:
    if call.version < lookups.NAMES_SINCE:
        raise NotAcceptable("Request not acceptable.", remedy=f"Names need version 1.{lookups.NAMES_SINCE}.", field="name")
    good = values.is_name(name) if call.version >= 10 else values.is_hostname(name)
    if not good:
        raise Invalid(refusal.format(name[:255]), remedy="Use letters, digits and . _ ~ - only, at most 255.", field="name")
    if name in RESERVED:
        raise Invalid(
            f'The word "{name}" is reserved and can not be used as a node name. Reserved words are: {", ".join(RESERVED)}.', field="name"
        )


def _children(call: Call, given: str) -> Iterable[Node]:
    """The children of a node. Of one that is not there they are none, as a filter that nothing passes."""
    try:
        parent = lookups.node(call, given)
    except (NotFound, RoutingError):
        return ()
    return call.services.store.table(Node).where("parent_node", parent.uuid)


def _parent(call: Call, given: str) -> str:
    try:
        return lookups.node(call, given).uuid
    except NotFound as error:
        raise Invalid(error.message, field="parent_node") from None


async def list_nodes(call: Call) -> bytes:
    """List nodes."""
    names = listing.chosen_fields(call, call.services.views.nodes, detail=call.args.get("detail"))
    return nodes_page(call, call.services.store.table(Node), names, "nodes")


async def list_details(call: Call) -> bytes:
    """List nodes with every field."""
    return nodes_page(call, call.services.store.table(Node), None, "nodes/detail")


def nodes_page(call: Call, nodes: Iterable[Node], names: tuple[str, ...] | None, path: str) -> bytes:
    """One page of the nodes that pass the filters of the request."""
    marker = listing.find_marker(call, Node, "Node")
    return listing.page(
        call,
        call.services.views.nodes,
        sight.seen(call, _filtered(call, nodes), Node),
        names,
        path=path,
        endless="instance_uuid" in call.args,
        marker=marker,
        render=None if sight.whole_list(call) else partial(_render, call, names),
    )


def _render(call: Call, names: tuple[str, ...] | None, nodes: Sequence[Node]) -> list[bytes]:
    forms = [sight.node_view(call, node) for node in nodes]
    if forms and all(form is forms[0] for form in forms):
        return forms[0].many(nodes, call.version, call.base, names)
    return [form.one(node, call.version, call.base, names) for form, node in zip(forms, nodes, strict=True)]


def _filtered(call: Call, nodes: Iterable[Node]) -> Iterable[Node]:
    args = {name: value for name, value in call.args.items() if name not in ("limit", "marker", "sort_key", "sort_dir", "fields", "detail")}
    table = call.services.store.table(Node)
    if "instance_uuid" in args:
        found = table.by("instance_uuid", args.pop("instance_uuid"))
        nodes = [found] if found is not None else []
    elif "chassis_uuid" in args:
        nodes = table.where("chassis_uuid", call.services.fleet.chassis.find(args.pop("chassis_uuid")).uuid)
    children = args.pop("include_children", False) or "parent_node" in args
    if "parent_node" in args:
        nodes = _children(call, args.pop("parent_node"))
    if not children:
        nodes = (node for node in nodes if node.parent_node is None)
    return _by_value(call, nodes, args) if args else nodes


def _by_value(call: Call, nodes: Iterable[Node], args: dict[str, Any]) -> Iterable[Node]:
    for name in _EQUAL:
        if name in args:
            nodes = _equal(nodes, name, _checked(name, args[name]))
    if "provision_state" in args:
        nodes = _equal(nodes, "provision_state", _state(args["provision_state"]))
    if "conductor_group" in args:
        nodes = _equal(nodes, "conductor_group", args["conductor_group"].lower())
    if "associated" in args:
        nodes = [node for node in nodes if (node.instance_uuid is not None) is args["associated"]]
    if "sharded" in args:
        nodes = [node for node in nodes if (node.shard is not None) is args["sharded"]]
    if "shard" in args:
        nodes = [node for node in nodes if node.shard in args["shard"]]
    if "project" in args:
        nodes = [node for node in nodes if args["project"] in (node.owner, node.lessee)]
    if "conductor" in args and args["conductor"] != call.services.conductor.hostname:
        nodes = ()
    if "description_contains" in args:
        wanted = args["description_contains"].lower()
        nodes = [node for node in nodes if wanted in (node.description or "").lower()]
    return nodes


def _equal(nodes: Iterable[Node], name: str, value: Any) -> list[Node]:
    return [node for node in nodes if getattr(node, name) == value]


def _checked(name: str, value: Any) -> Any:
    if name == "fault" and value not in set(Fault):
        raise Invalid(
            f'Unrecognized fault "{values.bare(value)}" is specified, allowed faults are {tuple(f.value for f in Fault)}', field=name
        )
    return value


def _state(text: str) -> ProvisionState:
    try:
        return ProvisionState(text)
    except ValueError:
        raise Invalid(f'Provision state "{values.bare(text)}" is not valid', field="provision_state") from None


def stamp(call: Call) -> str:
    """The state of the node that the path names."""
    return conditional.stamp_of(lookups.node(call))


async def show(call: Call) -> bytes:
    """Show a node."""
    node = lookups.node(call)
    names = None
    if call.args:
        call.require(8)
        names = call.services.views.nodes.check(call.args["fields"], call.version)
    return sight.node_view(call, node).one(node, call.version, call.base, names)


async def update(call: Call) -> bytes:
    """Change a node by a JSON patch."""
    changes = patch.read(call.body, tuple(sorted(PATCHABLE)))
    _refuse_newer(
        call, dict.fromkeys(root for root in changes.roots if any(o.root == root and o.op != "remove" for o in changes.operations))
    )
    reset = call.args.get("reset_interfaces", False)
    if reset and not changes.given("driver"):
        raise Invalid("The reset_interfaces parameter can only be used when changing the node's driver.", field="reset_interfaces")
    node = lookups.node(call)
    for name in changes.given("name"):
        if name is not None:
            _check_name(call, values.text("name", name), f"Node {node.uuid}: Cannot change name to invalid name '{{}}'")

    def edit(current: Node) -> dict[str, Any]:
        conditional.expect(call, current)
        after = changes.apply({root: getattr(current, root) for root in changes.roots})
        wanted = {root: conform(after.get(root), PATCHABLE[root], root) for root in changes.roots}
        if wanted.get("parent_node"):
            wanted["parent_node"] = _parent(call, wanted["parent_node"])
        if "chassis_uuid" in wanted and wanted["chassis_uuid"] is None and current.chassis_uuid is not None:
            call.require(25)
        return wanted

    saved = await call.services.fleet.nodes.update(
        node.uuid, edit, call.caller, reset_interfaces=reset, inspecting_is_closed=call.version >= 39
    )
    return sight.node_view(call, saved).one(saved, call.version, call.base)


async def delete(call: Call) -> None:
    """Delete a node."""
    node = lookups.node(call)
    await call.services.fleet.nodes.delete(node.uuid, call.caller, lambda current: conditional.expect(call, current))
    call.services.views.nodes.forget(node)
    call.services.views.leased_nodes.forget(node)


async def validate(call: Call) -> dict[str, Any]:
    """Check a node's settings, interface by interface."""
    given = call.path.get("node") or call.args.get("node") or call.args.get("node_uuid")
    if given is None:
        raise Invalid("Missing mandatory parameter: node", field="node")
    node = lookups.node(call, given) if "node" in call.path else lookups.node_of_argument(call, "node", given)
    found = await call.services.conductor.validate(node.uuid)
    return {kind: {"result": True} if reason is None else {"result": False, "reason": reason} for kind, reason in found.items()}


ROUTES = (
    Route(
        "GET",
        "/v1/nodes",
        list_nodes,
        "List nodes",
        args=(*PAGING, FIELDS, DETAIL, *FILTERS),
        policy="baremetal:node:list",
        answer="node_list",
        stamp=STAMP,
    ),
    Route(
        "GET",
        "/v1/nodes/detail",
        list_details,
        "List nodes with all fields",
        args=(*PAGING, *FILTERS),
        policy="baremetal:node:list",
        answer="node_list",
        stamp=STAMP,
    ),
    Route(
        "GET",
        "/v1/nodes/validate",
        validate,
        "Check a node",
        args=(Arg("node", IDENTIFIER), Arg("node_uuid", UUID)),
        policy="baremetal:node:validate",
    ),
    Route("GET", "/v1/nodes/{node}", show, "Show a node", args=(FIELDS,), policy="baremetal:node:get", answer="node", stamp=stamp),
    Route(
        "PATCH",
        "/v1/nodes/{node}",
        update,
        "Change a node",
        args=(Arg("reset_interfaces", BOOLEAN, 45),),
        body=patch.SCHEMA,
        body_name="patch",
        policy="baremetal:node:update",
        answer="node",
        honours=("If-Match",),
    ),
    Route("DELETE", "/v1/nodes/{node}", delete, "Delete a node", status=204, policy="baremetal:node:delete", honours=("If-Match",)),
    Route("GET", "/v1/nodes/{node}/validate", validate, "Check a node", policy="baremetal:node:validate"),
)
