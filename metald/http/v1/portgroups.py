"""`/v1/portgroups`: ports of one node that work as one link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metald.errors import Conflict, Invalid
from metald.http import listing, values
from metald.http.call import Call
from metald.http.crud import Collection
from metald.http.route import DETAIL, FIELDS, IDENTIFIER, MAC, PAGING, WORDS, Arg, Route
from metald.http.schema import NULLABLE_BOOLEAN, NULLABLE_OBJECT, NULLABLE_TEXT, NULLABLE_UUID, Schema
from metald.http.v1 import lookups, ports
from metald.http.v1.nodes import NAMES
from metald.model import Node, Port, ProvisionState
from metald.model.catalogue import Portgroup

_FIELDS: dict[str, Schema] = {
    "node_uuid": {"type": "string", "format": "identifier"},
    "address": {"anyOf": [{"type": "null"}, {"type": "string", "format": "mac"}]},
    "category": {"type": ["string", "null"], "maxLength": 80},
    "extra": NULLABLE_OBJECT,
    "mode": {"type": ["string", "null"], "maxLength": 255},
    "name": NULLABLE_TEXT,
    "physical_network": {"type": ["string", "null"], "maxLength": 64},
    "properties": NULLABLE_OBJECT,
    "standalone_ports_supported": NULLABLE_BOOLEAN,
}


def _checked(call: Call, fields: dict[str, Any], before: Portgroup | None) -> dict[str, Any]:
    if fields.get("name") and not values.is_name(fields["name"]):
        raise Invalid(f"Cannot create portgroup with invalid name {values.shown(fields['name'])}", field="name")
    if fields.get("node_uuid"):
        fields["node_uuid"] = lookups.uuid_of_node(call, fields["node_uuid"])
    if before is None:
        return fields
    if fields.get("mode", "") is None:
        raise Invalid("'mode' is a mandatory attribute and can not be removed", field="mode")
    node = call.services.store.table(Node).get(before.node_uuid)
    if node is not None and node.provision_state is ProvisionState.INSPECTING and call.version >= 39:
        raise Conflict(f'Cannot update portgroup "{before.uuid}" on node "{node.uuid}" while it is in state "inspecting".')
    return fields


def _filtered(call: Call, groups: Iterable[Portgroup]) -> Iterable[Portgroup]:
    exclusive = [name for name in ("node", "shard", "conductor_groups") if name in call.args]
    if len(exclusive) > 1:
        raise Invalid(f"Filters {' and '.join(exclusive)} can not be combined.", field=exclusive[1])
    if "node" in call.args:
        owner = lookups.node(call, call.args["node"])
        groups = [group for group in groups if group.node_uuid == owner.uuid]
    if "address" in call.args:
        groups = [group for group in groups if group.address == call.args["address"]]
    nodes = call.services.store.table(Node)
    for name, field in (("shard", "shard"), ("conductor_groups", "conductor_group")):
        if name in call.args:
            groups = [group for group in groups if getattr(nodes.get(group.node_uuid), field, None) in call.args[name]]
    return groups


PORTGROUPS: Collection[Portgroup] = Collection(
    kind=Portgroup,
    path="portgroups",
    noun="portgroup",
    policy="baremetal:portgroup",
    list_policy="list",
    view=lambda views: views.portgroups,
    room=lambda fleet: fleet.catalogue.portgroups,
    create={"type": "object", "properties": {**_FIELDS, "uuid": NULLABLE_UUID}, "required": ["node_uuid"], "additionalProperties": False},
    patchable=_FIELDS,
    since=23,
    too_old=404,
    filters=(Arg("node", IDENTIFIER), Arg("address", MAC), Arg("shard", NAMES, 106), Arg("conductor_groups", WORDS, 99)),
    filtered=_filtered,
    checked=_checked,
    listed_in_detail=True,
)


def _names(call: Call) -> tuple[str, ...] | None:
    return listing.chosen_fields(call, call.services.views.portgroups, detail=call.args.get("detail"))


async def list_of_node(call: Call) -> bytes:
    """List the port groups of a node."""
    node = lookups.node(call)
    found = call.services.store.table(Portgroup).where("node_uuid", node.uuid)
    return PORTGROUPS.page(call, found, _names(call), f"nodes/{call.path['node']}/portgroups")


async def list_details_of_node(call: Call) -> bytes:
    """List the port groups of a node with every field."""
    node = lookups.node(call)
    found = call.services.store.table(Portgroup).where("node_uuid", node.uuid)
    return PORTGROUPS.page(call, found, None, f"nodes/{call.path['node']}/portgroups/detail")


async def list_ports(call: Call) -> bytes:
    """List the ports of a port group."""
    group = PORTGROUPS.find(call)
    found = call.services.store.table(Port).where("portgroup_uuid", group.uuid)
    names = listing.chosen_fields(call, call.services.views.ports, detail=call.args.get("detail"))
    return ports.ports_page(call, found, names, f"portgroups/{group.uuid}/ports")


async def list_port_details(call: Call) -> bytes:
    """List the ports of a port group with every field."""
    group = PORTGROUPS.find(call)
    found = call.services.store.table(Port).where("portgroup_uuid", group.uuid)
    return ports.ports_page(call, found, None, f"portgroups/{group.uuid}/ports/detail")


_GET = "baremetal:portgroup:get"
ROUTES = (
    *PORTGROUPS.routes(),
    Route(
        "GET",
        "/v1/nodes/{node}/portgroups",
        list_of_node,
        "List a node's port groups",
        since=24,
        args=(*PAGING, FIELDS, DETAIL),
        policy=_GET,
    ),
    Route(
        "GET",
        "/v1/nodes/{node}/portgroups/detail",
        list_details_of_node,
        "List a node's port groups with all fields",
        since=24,
        args=PAGING,
        policy=_GET,
    ),
    Route(
        "GET",
        "/v1/portgroups/{portgroup}/ports",
        list_ports,
        "List a port group's ports",
        since=24,
        args=(*PAGING, FIELDS, DETAIL),
        policy=_GET,
    ),
    Route(
        "GET",
        "/v1/portgroups/{portgroup}/ports/detail",
        list_port_details,
        "List a port group's ports with all fields",
        since=24,
        args=PAGING,
        policy=_GET,
    ),
)
