"""metald's own additions, under names that Ironic does not use: health, time-lines, progress, events, the OpenAPI document."""

from __future__ import annotations

from metald.errors import Unavailable
from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.v1 import lookups
from metald.http.watch.frames import document

ALWAYS = 1
"""Names were known here from the first version on: no client of Ironic asks for these paths."""


async def healthz(_call: Call) -> dict[str, str]:
    """The daemon lives."""
    return {"status": "alive"}


async def readyz(call: Call) -> dict[str, str]:
    """The daemon takes requests."""
    if not call.services.ready() or not call.services.store.alive:
        raise Unavailable("metald is not ready", remedy="Try again in a moment.")
    return {"status": "ready"}


async def timeline(call: Call) -> Reply:
    """Everything that happened to a node, oldest first."""
    node = lookups.node(call, names_since=ALWAYS)
    return Reply.of({"timeline": [document(event) for event in await call.services.conductor.timeline(node.uuid)]})


async def progress(call: Call) -> Reply:
    """How far a node's running step is; empty when nothing runs."""
    return Reply.of({"progress": call.services.conductor.progress(lookups.node(call, names_since=ALWAYS).uuid)})


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
)
