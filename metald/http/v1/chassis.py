"""`/v1/chassis`: groups of nodes in one enclosure."""

from __future__ import annotations

from typing import Any

from metald.errors import Invalid
from metald.http import conditional, listing, patch
from metald.http.call import Call, Reply
from metald.http.problem import RoutingError
from metald.http.route import DETAIL, FIELDS, PAGING, Route
from metald.http.schema import NULLABLE_OBJECT, NULLABLE_UUID, Schema, conform
from metald.http.v1 import nodes
from metald.http.values import as_uuid, bare
from metald.model import Chassis, Node

_FIELDS: dict[str, Schema] = {"description": {"type": ["string", "null"], "maxLength": 255}, "extra": NULLABLE_OBJECT}
CREATE: Schema = {"type": "object", "properties": {**_FIELDS, "uuid": NULLABLE_UUID}, "additionalProperties": False}


def _find(call: Call) -> Chassis:
    uuid = as_uuid(call.path["chassis"])
    if uuid is None:
        raise RoutingError(400, f"Expected UUID for chassis: {bare(call.path['chassis'])}", field="chassis")
    return call.services.fleet.chassis.find(uuid)


def _stamp(call: Call) -> str:
    return conditional.stamp_of(_find(call))


async def create(call: Call) -> Reply:
    """Create a chassis."""
    chassis = await call.services.fleet.chassis.create(call.body, call.caller)
    view = call.services.views.chassis
    return Reply(view.one(chassis, call.version, call.base), location=call.url(f"chassis/{chassis.uuid}"))


def _page(call: Call, names: tuple[str, ...] | None, path: str) -> bytes:
    marker = listing.find_marker(call, Chassis, "Chassis")
    return listing.page(call, call.services.views.chassis, call.services.store.table(Chassis), names, path=path, marker=marker)


async def list_chassis(call: Call) -> bytes:
    """List chassis."""
    names = listing.chosen_fields(call, call.services.views.chassis, detail=call.args.get("detail"))
    return _page(call, names, "chassis")


async def list_details(call: Call) -> bytes:
    """List chassis with every field."""
    return _page(call, None, "chassis/detail")


async def show(call: Call) -> bytes:
    """Show a chassis."""
    chassis = _find(call)
    names = None
    if call.args:
        call.require(8)
        names = call.services.views.chassis.check(call.args["fields"], call.version)
    return call.services.views.chassis.one(chassis, call.version, call.base, names)


async def update(call: Call) -> bytes:
    """Change a chassis by a JSON patch."""
    changes = patch.read(call.body, tuple(sorted(_FIELDS)))
    chassis = _find(call)

    def edit(current: Chassis) -> dict[str, Any]:
        conditional.expect(call, current)
        after = changes.apply({root: getattr(current, root) for root in changes.roots})
        return {root: conform(after.get(root), _FIELDS[root], root) for root in changes.roots}

    saved = await call.services.fleet.chassis.update(chassis.uuid, edit, call.caller)
    return call.services.views.chassis.one(saved, call.version, call.base)


async def delete(call: Call) -> None:
    """Delete a chassis."""
    chassis = _find(call)
    await call.services.fleet.chassis.delete(chassis.uuid, call.caller, lambda current: conditional.expect(call, current))
    call.services.views.chassis.forget(chassis)


async def list_nodes(call: Call) -> bytes:
    """List the nodes of a chassis."""
    if "chassis_uuid" in call.args:
        raise Invalid("The path names the chassis already", field="chassis_uuid")
    names = listing.chosen_fields(call, call.services.views.nodes, detail=call.args.get("detail"))
    return _nodes(call, names, "nodes")


async def list_node_details(call: Call) -> bytes:
    """List the nodes of a chassis with every field."""
    return _nodes(call, None, "nodes/detail")


def _nodes(call: Call, names: tuple[str, ...] | None, path: str) -> bytes:
    chassis = _find(call)
    found = call.services.store.table(Node).where("chassis_uuid", chassis.uuid)
    return nodes.nodes_page(call, found, names, f"chassis/{chassis.uuid}/{path}")


_STAMP = conditional.Tables(Chassis)
ROUTES = (
    Route(
        "GET",
        "/v1/chassis",
        list_chassis,
        "List chassis",
        args=(*PAGING, FIELDS, DETAIL),
        policy="baremetal:chassis:get",
        answer="chassis_list",
        stamp=_STAMP,
    ),
    Route(
        "POST",
        "/v1/chassis",
        create,
        "Create a chassis",
        body=CREATE,
        body_name="chassis",
        status=201,
        policy="baremetal:chassis:create",
        answer="chassis",
    ),
    Route(
        "GET",
        "/v1/chassis/detail",
        list_details,
        "List chassis with all fields",
        args=PAGING,
        policy="baremetal:chassis:get",
        answer="chassis_list",
        stamp=_STAMP,
    ),
    Route(
        "GET",
        "/v1/chassis/{chassis}",
        show,
        "Show a chassis",
        args=(FIELDS,),
        policy="baremetal:chassis:get",
        answer="chassis",
        stamp=_stamp,
    ),
    Route(
        "PATCH",
        "/v1/chassis/{chassis}",
        update,
        "Change a chassis",
        body=patch.SCHEMA,
        body_name="patch",
        policy="baremetal:chassis:update",
        honours=("If-Match",),
        answer="chassis",
    ),
    Route(
        "DELETE", "/v1/chassis/{chassis}", delete, "Delete a chassis", status=204, policy="baremetal:chassis:delete", honours=("If-Match",)
    ),
    Route(
        "GET",
        "/v1/chassis/{chassis}/nodes",
        list_nodes,
        "List the nodes of a chassis",
        args=(*PAGING, FIELDS, DETAIL, *nodes.FILTERS),
        policy="baremetal:node:list",
        answer="node_list",
        stamp=nodes.STAMP,
    ),
    Route(
        "GET",
        "/v1/chassis/{chassis}/nodes/detail",
        list_node_details,
        "List the nodes of a chassis with all fields",
        args=(*PAGING, *nodes.FILTERS),
        policy="baremetal:node:list",
        answer="node_list",
        stamp=nodes.STAMP,
    ),
)
