"""metald's own additions, under names that Ironic does not use: health, time-lines, progress, events, the OpenAPI document."""

from __future__ import annotations

from typing import Any

import msgspec

from metald.errors import Invalid, Unavailable
from metald.http.call import Call, Reply
from metald.http.route import INTEGER, Arg, Route
from metald.http.v1 import lookups
from metald.model import Event
from metald.model.masking import masked

_MOST_EVENTS = 1000
_ALWAYS = 1
"""Names were known here from the first version on: no client of Ironic asks for these paths."""


async def healthz(_call: Call) -> dict[str, str]:
    """The daemon lives."""
    return {"status": "alive"}


async def readyz(call: Call) -> dict[str, str]:
    """The daemon takes requests."""
    if not call.services.ready() or not call.services.store.alive:
        raise Unavailable("metald is not ready", remedy="Try again in a moment.")
    return {"status": "ready"}


def _event(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.structs.asdict(event)
    found["data"] = masked(event.data)
    return found


async def timeline(call: Call) -> Reply:
    """Everything that happened to a node, oldest first."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"timeline": [_event(event) for event in await call.services.conductor.timeline(node.uuid)]})


async def progress(call: Call) -> Reply:
    """How far a node's running step is; empty when nothing runs."""
    return Reply.of({"progress": call.services.conductor.progress(lookups.node(call, names_since=_ALWAYS).uuid)})


async def events(call: Call) -> Reply:
    """Events after a sequence number, in order."""
    since, limit = call.args.get("since", 0), call.args.get("limit", _MOST_EVENTS)
    if since < 0:
        raise Invalid("since must not be negative", field="since")
    if limit <= 0:
        raise Invalid("Limit must be positive", field="limit")
    found = await call.services.store.events(since=since, limit=min(limit, _MOST_EVENTS))
    return Reply.of({"events": [_event(event) for event in found], "last_seq": call.services.store.last_seq})


async def openapi(call: Call) -> bytes:
    """The OpenAPI document."""
    return call.services.openapi


ROUTES = (
    Route("GET", "/openapi.json", openapi, "This document", public=True, versioned=False),
    Route("GET", "/v1/openapi.json", openapi, "This document", public=True, versioned=False),
    Route("GET", "/healthz", healthz, "Whether the daemon lives", public=True, versioned=False),
    Route("GET", "/readyz", readyz, "Whether the daemon takes requests", public=True, versioned=False),
    Route("GET", "/v1/nodes/{node}/timeline", timeline, "What happened to a node", policy="baremetal:node:history:get"),
    Route("GET", "/v1/nodes/{node}/progress", progress, "How far a node's step is", policy="baremetal:node:get_states"),
    Route(
        "GET", "/v1/events", events, "Events in order", args=(Arg("since", INTEGER), Arg("limit", INTEGER)), policy="baremetal:events:get"
    ),
)
