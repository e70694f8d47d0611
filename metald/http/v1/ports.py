"""`/v1/ports`, and the ports of one node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metald.errors import Invalid, NotAcceptable, NotAllowed, NotFound
from metald.http import conditional, listing, patch, sight
from metald.http.call import Call, Reply
from metald.http.route import DETAIL, FIELDS, IDENTIFIER, MAC, PAGING, WORDS, Arg, Route
from metald.http.schema import NULLABLE_BOOLEAN, NULLABLE_IDENTIFIER, NULLABLE_OBJECT, NULLABLE_TEXT, NULLABLE_UUID, Schema, conform
from metald.http.v1 import links, lookups
from metald.http.v1.nodes import NAMES
from metald.model import Node, Port
from metald.model.catalogue import Portgroup

_FIELDS: dict[str, Schema] = {
    "address": {"type": "string", "format": "mac"},
    "extra": NULLABLE_OBJECT,
    "is_smartnic": NULLABLE_BOOLEAN,
    "local_link_connection": NULLABLE_OBJECT,
    "physical_network": {"type": ["string", "null"], "minLength": 1, "maxLength": 64},
    "portgroup_uuid": NULLABLE_IDENTIFIER,
    "pxe_enabled": NULLABLE_BOOLEAN,
    "name": NULLABLE_TEXT,
    "description": {"type": ["string", "null"], "maxLength": 255},
    "vendor": {"type": ["string", "null"], "maxLength": 32},
    "category": {"type": ["string", "null"], "maxLength": 80},
    "available_for_dynamic_portgroup": NULLABLE_BOOLEAN,
}
_OWNER: dict[str, Schema] = {
    "node_uuid": {"type": "string", "format": "identifier"},
    "node_ident": {"type": "string"},
}
PATCHABLE = {**_FIELDS, **_OWNER}
CREATE: Schema = {
    "type": "object",
    "properties": {**_FIELDS, **_OWNER, "uuid": NULLABLE_UUID},
    "required": ["address"],
    "additionalProperties": False,
}
_NODE_IDENT_SINCE = 94
_GROUP_NETWORK_SINCE = 102
FILTERS: tuple[Arg, ...] = (
    Arg("node", IDENTIFIER),
    Arg("node_uuid", IDENTIFIER),
    Arg("address", MAC),
    Arg("portgroup", IDENTIFIER, 24),
    Arg("shard", NAMES, 82),
    Arg("description_contains"),
    Arg("conductor_groups", WORDS, 99),
)


STAMP = conditional.Tables(Port, Node, Portgroup)
"""The state of lists of ports, whose filters look at their nodes and groups."""


def _refuse_newer(call: Call, names: Iterable[str]) -> None:
    known = call.services.views.ports.fields
    for name in names:
        since = _NODE_IDENT_SINCE if name == "node_ident" else known[name].since if name in known else 1
        if since > call.version:
            raise NotAcceptable("Request not acceptable.", remedy=f"Field {name} needs version 1.{since}.", field=name)


def _checked(call: Call, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a body with the node found and the link normalised."""
    if "node_ident" in fields:
        ident = fields.pop("node_ident")
        try:
            fields["node_uuid"] = lookups.node(call, ident).uuid
        except NotFound as error:
            raise Invalid(error.message, field="node_ident") from None
    if fields.get("node_uuid"):
        fields["node_uuid"] = lookups.uuid_of_node(call, fields["node_uuid"])
    if fields.get("portgroup_uuid"):
        fields["portgroup_uuid"] = lookups.uuid_of_portgroup(call, fields["portgroup_uuid"])
    if fields.get("local_link_connection"):
        fields["local_link_connection"] = links.connection(call, fields["local_link_connection"])
    return fields


async def create(call: Call) -> Reply:
    """Create a port."""
    body = {name: value for name, value in call.body.items() if not (name == "uuid" and value is None)}
    _refuse_newer(call, [name for name, value in body.items() if value is not None])
    if ("node_uuid" in body) == ("node_ident" in body):
        raise Invalid(
            "Exactly one of node_uuid and node_ident must be given", remedy="Name the node that the port is of.", field="node_uuid"
        )
    port = await call.services.fleet.ports.create(_checked(call, body), call.caller)
    view = call.services.views.ports
    return Reply(view.one(port, call.version, call.base), location=call.url(f"ports/{port.uuid}"))


def _chosen(call: Call) -> tuple[str, ...] | None:
    view = call.services.views.ports
    return listing.chosen_fields(call, view, detail=call.args.get("detail"))


async def list_ports(call: Call) -> bytes:
    """List ports."""
    return ports_page(call, _filtered(call), _chosen(call), "ports")


async def list_details(call: Call) -> bytes:
    """List ports with every field."""
    return ports_page(call, _filtered(call), None, "ports/detail")


async def list_of_node(call: Call) -> bytes:
    """List the ports of a node."""
    node = lookups.node(call)
    return ports_page(
        call, call.services.store.table(Port).where("node_uuid", node.uuid), _chosen(call), f"nodes/{call.path['node']}/ports"
    )


async def list_details_of_node(call: Call) -> bytes:
    """List the ports of a node with every field."""
    node = lookups.node(call)
    return ports_page(call, call.services.store.table(Port).where("node_uuid", node.uuid), None, f"nodes/{call.path['node']}/ports/detail")


def ports_page(call: Call, ports: Iterable[Port], names: tuple[str, ...] | None, path: str) -> bytes:
    """One page of ports."""
    shown = sight.seen(call, ports, Port)
    return listing.page(call, call.services.views.ports, shown, names, path=path, marker=listing.find_marker(call, Port, "Port"))


def _filtered(call: Call) -> Iterable[Port]:
    args = call.args
    table = call.services.store.table(Port)
    exclusive = [name for name in ("node", "node_uuid", "portgroup", "shard") if name in args]
    if len(exclusive) > 1 and set(exclusive) != {"node", "node_uuid"}:
        raise NotAllowed(f"Filters {' and '.join(exclusive)} can not be combined.", field=exclusive[1])
    ports: Iterable[Port] = table
    owner = next((name for name in ("node", "node_uuid") if args.get(name)), None)
    if owner is not None:
        ports = table.where("node_uuid", lookups.node_of_argument(call, owner, args[owner]).uuid)
    elif "portgroup" in args:
        groups = call.services.fleet.catalogue.portgroups
        group = groups.find(args["portgroup"])
        if not sight.sees(call, group):
            raise groups.missing(args["portgroup"])
        ports = table.where("portgroup_uuid", group.uuid)
    if "address" in args:
        found = table.by("address", args["address"])
        ports = [port for port in ports if port is found]
    nodes = call.services.store.table(Node)
    if "shard" in args:
        ports = [port for port in ports if _node_value(nodes.get(port.node_uuid), "shard") in args["shard"]]
    if "conductor_groups" in args:
        ports = [port for port in ports if _node_value(nodes.get(port.node_uuid), "conductor_group") in args["conductor_groups"]]
    if "description_contains" in args:
        wanted = args["description_contains"].lower()
        ports = [port for port in ports if wanted in (port.description or "").lower()]
    return ports


def _node_value(node: Node | None, name: str) -> Any:
    return None if node is None else getattr(node, name)


def stamp(call: Call) -> str:
    """The state of the port that the path names."""
    return conditional.stamp_of(lookups.port(call))


async def show(call: Call) -> bytes:
    """Show a port."""
    port = lookups.port(call)
    names = None
    if call.args:
        call.require(8)
        names = call.services.views.ports.check(call.args["fields"], call.version)
    return call.services.views.ports.one(port, call.version, call.base, names)


async def update(call: Call) -> bytes:
    """Change a port by a JSON patch."""
    changes = patch.read(call.body, tuple(sorted(PATCHABLE)))
    _refuse_newer(call, changes.roots)
    port = lookups.port(call)

    def edit(current: Port) -> dict[str, Any]:
        conditional.expect(call, current)
        before = {root: getattr(current, root, None) for root in changes.roots if root != "node_ident"}
        after = changes.apply(before)
        fields = _checked(call, {root: conform(after.get(root), PATCHABLE[root], root) for root in changes.roots})
        if "physical_network" in fields and fields.get("portgroup_uuid", current.portgroup_uuid) and call.version >= _GROUP_NETWORK_SINCE:
            raise Invalid(
                "physical_network cannot be changed while the port belongs to a portgroup.",
                remedy="Change that of the port group, which its ports follow.",
                field="physical_network",
            )
        return fields

    saved = await call.services.fleet.ports.update(port.uuid, edit, call.caller, inspecting_is_closed=call.version >= 39)
    return call.services.views.ports.one(saved, call.version, call.base)


async def delete(call: Call) -> None:
    """Delete a port."""
    port = lookups.port(call)
    await call.services.fleet.ports.delete(port.uuid, call.caller, lambda current: conditional.expect(call, current))
    call.services.views.ports.forget(port)


ROUTES = (
    Route(
        "GET",
        "/v1/ports",
        list_ports,
        "List ports",
        args=(*PAGING, FIELDS, DETAIL, *FILTERS),
        policy="baremetal:port:list",
        answer="port_list",
        stamp=STAMP,
    ),
    Route(
        "POST",
        "/v1/ports",
        create,
        "Create a port",
        body=CREATE,
        body_name="port",
        status=201,
        policy="baremetal:port:create",
        answer="port",
    ),
    Route(
        "GET",
        "/v1/ports/detail",
        list_details,
        "List ports with all fields",
        args=(*PAGING, *FILTERS),
        policy="baremetal:port:list",
        answer="port_list",
        stamp=STAMP,
    ),
    Route("GET", "/v1/ports/{port}", show, "Show a port", args=(FIELDS,), policy="baremetal:port:get", answer="port", stamp=stamp),
    Route(
        "PATCH",
        "/v1/ports/{port}",
        update,
        "Change a port",
        body=patch.SCHEMA,
        body_name="patch",
        policy="baremetal:port:update",
        answer="port",
        honours=("If-Match",),
    ),
    Route("DELETE", "/v1/ports/{port}", delete, "Delete a port", status=204, policy="baremetal:port:delete", honours=("If-Match",)),
    Route(
        "GET",
        "/v1/nodes/{node}/ports",
        list_of_node,
        "List a node's ports",
        args=(*PAGING, FIELDS, DETAIL),
        policy="baremetal:port:list",
        answer="port_list",
        stamp=STAMP,
    ),
    Route(
        "GET",
        "/v1/nodes/{node}/ports/detail",
        list_details_of_node,
        "List a node's ports with all fields",
        args=PAGING,
        policy="baremetal:port:list",
        answer="port_list",
        stamp=STAMP,
    ),
)
