"""`/v1/volume`: how nodes reach remote volumes, and which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metald.http import listing, sight
from metald.http.call import Call
from metald.http.crud import Collection
from metald.http.route import DETAIL, FIELDS, IDENTIFIER, PAGING, Arg, Route
from metald.http.schema import NULLABLE_OBJECT, NULLABLE_UUID, Schema
from metald.http.v1 import lookups
from metald.model.catalogue import VolumeConnector, VolumeTarget

_SINCE = 32
_OWNER: Schema = {"type": "string", "format": "identifier"}
_TEXT: Schema = {"type": "string", "maxLength": 255}
_CONNECTOR: dict[str, Schema] = {"node_uuid": _OWNER, "type": {**_TEXT, "maxLength": 32}, "connector_id": _TEXT, "extra": NULLABLE_OBJECT}
_TARGET: dict[str, Schema] = {
    "node_uuid": _OWNER,
    "volume_type": {**_TEXT, "maxLength": 64},
    "volume_id": _TEXT,
    "boot_index": {"type": "integer"},
    "properties": NULLABLE_OBJECT,
    "extra": NULLABLE_OBJECT,
}


def _value(fields: dict[str, Any], before: Any, name: str) -> Any:
    return fields[name] if name in fields else getattr(before, name)


def _connector(call: Call, fields: dict[str, Any], before: VolumeConnector | None) -> dict[str, Any]:
    fields = _known_node(call, fields)
    return {**fields, "key": f"{_value(fields, before, 'type')} {_value(fields, before, 'connector_id')}"}


def _target(call: Call, fields: dict[str, Any], before: VolumeTarget | None) -> dict[str, Any]:
    fields = _known_node(call, fields)
    return {**fields, "key": f"{_value(fields, before, 'node_uuid')} {_value(fields, before, 'boot_index')}"}


def _known_node(call: Call, fields: dict[str, Any]) -> dict[str, Any]:
    if "node_uuid" not in fields:
        return fields
    return {**fields, "node_uuid": lookups.uuid_of_node(call, fields["node_uuid"])}


def _of_node(call: Call, things: Iterable[Any]) -> Iterable[Any]:
    if "node" not in call.args:
        return things
    owner = lookups.node(call, call.args["node"])
    return [thing for thing in things if thing.node_uuid == owner.uuid]


def _schema(fields: dict[str, Schema], optional: tuple[str, ...]) -> Schema:
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": {**fields, "uuid": NULLABLE_UUID}, "required": required, "additionalProperties": False}


CONNECTORS: Collection[VolumeConnector] = Collection(
    kind=VolumeConnector,
    path="volume/connectors",
    noun="volume_connector",
    policy="baremetal:volume",
    list_policy="list",
    view=lambda views: views.connectors,
    room=lambda fleet: fleet.catalogue.connectors,
    create=_schema(_CONNECTOR, ("extra",)),
    patchable=_CONNECTOR,
    since=_SINCE,
    too_old=404,
    detail_since=_SINCE,
    named=False,
    filters=(Arg("node", IDENTIFIER),),
    filtered=_of_node,
    checked=_connector,
)
TARGETS: Collection[VolumeTarget] = Collection(
    kind=VolumeTarget,
    path="volume/targets",
    noun="volume_target",
    policy="baremetal:volume",
    list_policy="list",
    view=lambda views: views.targets,
    reduced=sight.target_view,
    room=lambda fleet: fleet.catalogue.targets,
    create=_schema(_TARGET, ("extra", "properties")),
    patchable=_TARGET,
    since=_SINCE,
    too_old=404,
    detail_since=_SINCE,
    named=False,
    filters=(Arg("node", IDENTIFIER),),
    filtered=_of_node,
    checked=_target,
)


def _links(call: Call, prefix: str) -> dict[str, Any]:
    def pair(path: str) -> list[dict[str, str]]:
        return [{"href": f"{call.base}/v1/{path}", "rel": "self"}, {"href": f"{call.base}/{path}", "rel": "bookmark"}]

    return {"connectors": pair(f"{prefix}/connectors"), "targets": pair(f"{prefix}/targets"), "links": pair(f"{prefix}/")}


async def root(call: Call) -> dict[str, Any]:
    """Where connectors and targets are."""
    return _links(call, "volume")


async def root_of_node(call: Call) -> dict[str, Any]:
    """Where a node's connectors and targets are."""
    return _links(call, f"nodes/{lookups.node(call).uuid}/volume")


async def connectors_of_node(call: Call) -> bytes:
    """List a node's connectors."""
    return _page_of_node(call, CONNECTORS, "connectors")


async def targets_of_node(call: Call) -> bytes:
    """List a node's targets."""
    return _page_of_node(call, TARGETS, "targets")


def _page_of_node(call: Call, collection: Collection[Any], name: str) -> bytes:
    node = lookups.node(call)
    view = collection.shown(call)
    names = listing.chosen_fields(call, view, detail=call.args.get("detail"), since_detail=_SINCE)
    found = call.services.store.table(collection.kind).where("node_uuid", node.uuid)
    return collection.page(call, found, names, f"nodes/{call.path['node']}/volume/{name}")


_NODE = "/v1/nodes/{node}/volume"
_GET = "baremetal:volume:list"
_LIST = (*PAGING, FIELDS, DETAIL)
ROUTES = (
    *CONNECTORS.routes(),
    *TARGETS.routes(),
    Route("GET", "/v1/volume", root, "Where volumes are", since=_SINCE, policy=_GET),
    Route("GET", _NODE, root_of_node, "Where a node's volumes are", since=_SINCE, policy=_GET),
    Route("GET", f"{_NODE}/connectors", connectors_of_node, "List a node's connectors", since=_SINCE, args=_LIST, policy=_GET),
    Route("GET", f"{_NODE}/targets", targets_of_node, "List a node's targets", since=_SINCE, args=_LIST, policy=_GET),
)
