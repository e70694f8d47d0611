"""A node's history, inventory and children; shards; events from outside. Small reads, and one write that means nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from metald.errors import Invalid, NotFound
from metald.http import sight, values
from metald.http.call import Call
from metald.http.route import BOOLEAN, PAGING, Arg, Route
from metald.http.schema import Schema
from metald.http.v1 import lookups
from metald.model import Event, Node
from metald.model.inventory import Inventory, unpacked
from metald.model.masking import mask_text

_KEPT = 300
_SHORT = 255
_SORT_KEYS = ("id", "uuid", "created_at", "updated_at", "conductor", "event", "event_type", "severity", "user")
"""What Ironic's clients may ask to sort by; it is always by time."""
_TYPES = {
    "node.provision": "transition",
    "node.workflow": "provisioning",
    "node.power": "power",
    "node.maintenance": "maintenance",
    "node.console": "console",
}
EVENTS: Schema = {
    "type": "object",
    "properties": {
        "events": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "event": {"type": "string", "enum": ["network.bind_port", "network.unbind_port", "network.delete_port"]},
                    "port_id": {"type": "string", "format": "uuid"},
                    "mac_address": {"type": "string", "format": "mac"},
                    "status": {"type": "string"},
                    "device_id": {"type": ["string", "null"]},
                    "binding:host_id": {"type": ["string", "null"]},
                    "binding:vnic_type": {"type": ["string", "null"]},
                },
                "required": ["event", "port_id", "mac_address", "status"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["events"],
    "additionalProperties": False,
}


def _sentence(event: Event) -> str:
    data = event.data
    if event.type == "node.provision":
        text = f"Moved provision state from {data.get('from')} to {data.get('to')} by {data.get('event')}{_after(data)}"
    elif event.type == "node.workflow":
        text = f"Workflow {data.get('kind', '')} ended: {data.get('state', data.get('outcome', ''))}{_after(data)}"
    elif event.type == "node.power":
        text = f"Power was asked to become {data.get('target')}"
    elif event.type == "node.maintenance":
        text = f"Maintenance was turned {'on' if data.get('maintenance') else 'off'}"
        text = f"{text}: {data['reason']}" if data.get("reason") else text
    else:
        text = event.type.removeprefix("node.").replace("_", " ").capitalize()
    error = data.get("error")
    return mask_text(f"{text}: {error}" if error else text)


def _after(data: dict[str, Any]) -> str:
    """How long the state, or the workflow, lasted."""
    seconds = data.get("seconds")
    return f" after {seconds:.1f} s" if isinstance(seconds, int | float) else ""


def _whole(seconds: Any) -> int | None:
    return int(seconds) if isinstance(seconds, int | float) else None


def _entry(call: Call, node: Node, event: Event, *, detail: bool) -> dict[str, Any]:
    text = _sentence(event)
    href = call.url(f"nodes/{node.uuid}/history/{event.id}")
    found: dict[str, Any] = {
        "uuid": event.id,
        "created_at": event.time,
        "severity": event.severity,
        "event": text if detail or len(text) <= _SHORT else f"{text[:251]}...",
        "links": [{"href": href, "rel": "self"}],
    }
    if detail:
        found |= {"event_type": _TYPES.get(event.type, "conductor"), "conductor": call.services.conductor.hostname, "user": event.user}
        if call.version >= 113:
            found["project"] = None
        if call.version >= 115:
            data = event.data
            found |= {
                "state": data.get("to"),
                "target_provision_state": data.get("target") if event.type == "node.provision" else None,
                "duration_seconds": _whole(data.get("seconds")),
            }
    return found


async def _events(call: Call, node: Node) -> list[Event]:
    found = await call.services.store.events(node_uuid=node.uuid, limit=_KEPT * 10, newest=True)
    return [event for event in found if event.type in _TYPES or event.severity == "ERROR"][-_KEPT:]


async def history(call: Call) -> dict[str, Any]:
    """List what happened to a node."""
    node = lookups.node(call)
    found = await _events(call, node)
    direction = call.args.get("sort_dir", "asc")
    if direction not in ("asc", "desc"):
        raise Invalid(f"Invalid sort direction: {direction[:80]}. Acceptable values are 'asc' or 'desc'", field="sort_dir")
    if direction == "desc":
        found.reverse()
    key = call.args.get("sort_key", "id")
    if key not in _SORT_KEYS:
        raise Invalid(
            f"The sort_key value {key[:80]} is an invalid field for sorting",
            remedy=f"Known are: {', '.join(_SORT_KEYS)}.",
            field="sort_key",
        )
    limit = call.args.get("limit", call.services.settings.api.max_limit)
    if limit <= 0:
        raise Invalid("Limit must be positive", field="limit")
    if "marker" in call.args:
        places = [i for i, event in enumerate(found) if event.id == call.args["marker"]]
        if not places:
            raise NotFound(f"Node history record {call.args['marker']} could not be found.", field="marker")
        found = found[places[0] + 1 :]
    detail = call.args.get("detail", False)
    answer: dict[str, Any] = {"history": [_entry(call, node, event, detail=detail) for event in found[:limit]]}
    if found and len(found[:limit]) == limit:
        query = f"sort_key=created_at&sort_dir={direction}{'&detail=True' if detail else ''}&limit={limit}&marker={found[limit - 1].id}"
        answer["next"] = call.url(f"nodes/{node.uuid}/history?{query}")
    return answer


async def history_entry(call: Call) -> dict[str, Any]:
    """Show one thing that happened to a node."""
    node = lookups.node(call)
    for event in await _events(call, node):
        if event.id == call.path["event"]:
            return _entry(call, node, event, detail=True)
    raise NotFound(f"Node history record {values.shown(call.path['event'])[1:-1]} could not be found.", field="event")


async def inventory(call: Call) -> bytes:
    """Show what inspection found."""
    node = lookups.node(call)
    found = call.services.store.table(Inventory).where("node_uuid", node.uuid)
    if not found:
        raise NotFound(f"Cannot find inventory for node {node.uuid}", remedy="Inspect the node first.", field="node")
    return await asyncio.to_thread(unpacked, found[0].document)


async def children(call: Call) -> dict[str, Any]:
    """List a node's children."""
    node = lookups.node(call)
    found = sight.seen(call, call.services.store.table(Node).where("parent_node", node.uuid), Node)
    return {"children": [child.uuid for child in found], "links": {"href": call.url(f"nodes/?parent_node={node.uuid}"), "rel": "children"}}


async def shards(call: Call) -> dict[str, Any]:
    """List shards with the number of their nodes; nodes without a shard are in none."""
    counts = Counter(node.shard for node in call.services.store.table(Node) if node.shard is not None)
    return {"shards": [{"name": name, "count": count} for name, count in sorted(counts.items())]}


async def outside_events(_call: Call) -> None:
    """Take note of what the network service says; nothing waits for it."""


_NODE = "/v1/nodes/{node}"
_HISTORY = "baremetal:node:history:get"
ROUTES = (
    Route(
        "GET",
        f"{_NODE}/history",
        history,
        "List what happened to a node",
        since=78,
        args=(*PAGING, Arg("detail", BOOLEAN)),
        policy=_HISTORY,
    ),
    Route("GET", f"{_NODE}/history/{{event}}", history_entry, "Show what happened to a node", since=78, policy=_HISTORY),
    Route("GET", f"{_NODE}/inventory", inventory, "Show what inspection found", since=81, policy="baremetal:node:inventory:get"),
    Route("GET", f"{_NODE}/children", children, "List a node's children", since=83, policy="baremetal:node:get"),
    Route("GET", "/v1/shards", shards, "List shards", since=82, policy="baremetal:shards:get"),
    Route(
        "POST",
        "/v1/events",
        outside_events,
        "Tell of the network",
        since=54,
        body=EVENTS,
        body_name="events",
        status=204,
        policy="baremetal:events:post",
    ),
)
