"""metald's own additions, under names that Ironic does not use: health, time-lines, progress, events, the OpenAPI document."""

from __future__ import annotations

import asyncio
from importlib import resources

from metald.errors import Unavailable
from metald.http import exposition
from metald.http.call import Call, Reply
from metald.http.route import Arg, Route
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
    """How far a node's running step is, and what it waits for in a queue; empty when nothing runs or waits."""
    uuid = lookups.node(call, names_since=ALWAYS).uuid
    waits = [
        {"for": found.what, "setting": found.setting, "since": found.since.isoformat(), "ahead": found.ahead}
        for found in call.services.limits.of(uuid)
    ]
    return Reply.of({"progress": call.services.conductor.progress(uuid), "waiting": waits})


async def metrics(call: Call) -> Reply:
    """Numbers about the daemon for Prometheus."""
    body, content_type = await call.services.metrics.render()
    return Reply(body, headers={"Content-Type": content_type})


async def sensor_metrics(call: Call) -> Reply:
    """The sensors of the whole fleet for Prometheus, as they were read last (`conductor.sensor_interval`)."""
    body = await asyncio.to_thread(exposition.sensors, dict(call.services.readings))
    return Reply(body, headers={"Content-Type": exposition.CONTENT_TYPE})


async def openapi(call: Call) -> bytes:
    """The OpenAPI document."""
    return call.services.openapi


_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The pages run and load nothing but what this daemon serves."""


def _page(path: str, file: str, content_type: str, what: str, *args: Arg) -> Route:
    content = (resources.files("metald.http") / "web" / file).read_bytes()
    headers = {"Content-Type": f"{content_type}; charset=utf-8", "Content-Security-Policy": _POLICY}

    async def show(_call: Call) -> Reply:
        return Reply(content, headers=headers)

    return Route("GET", path, show, what, public=True, versioned=False, content_type=content_type, args=args)


async def asyncapi(call: Call) -> bytes:
    """The AsyncAPI document of the events."""
    return call.services.asyncapi


_DOCUMENTATION = "The API's documentation as a page"
_DOCS = (("/docs", "docs.html", "text/html"), ("/docs/docs.js", "docs.js", "text/javascript"), ("/docs/docs.css", "docs.css", "text/css"))
_SCREEN = "A machine's screen as a page"
ROUTES = (
    *(_page(*names, _DOCUMENTATION) for names in _DOCS),
    _page("/v1/screen", "screen.html", "text/html", _SCREEN, Arg("path")),  # which the page reads, not the server
    _page("/v1/screen.js", "screen.js", "text/javascript", _SCREEN),
    _page("/v1/screen.css", "screen.css", "text/css", _SCREEN),
    Route("GET", "/openapi.json", openapi, "This document", public=True, versioned=False),
    Route("GET", "/asyncapi.json", asyncapi, "What the events over AMQP look like", public=True, versioned=False),
    Route("GET", "/v1/openapi.json", openapi, "This document", public=True, versioned=False),
    Route("GET", "/healthz", healthz, "Whether the daemon lives", public=True, versioned=False),
    Route("GET", "/readyz", readyz, "Whether the daemon takes requests", public=True, versioned=False),
    Route("GET", "/metrics", metrics, "Numbers for Prometheus", policy="metald:metrics:get", versioned=False, content_type="text/plain"),
    Route(
        "GET",
        "/metrics/sensors",
        sensor_metrics,
        "Sensors of the fleet for Prometheus",
        policy="metald:metrics:get",
        versioned=False,
        content_type="text/plain",
    ),
    Route("GET", "/v1/nodes/{node}/timeline", timeline, "What happened to a node", policy="baremetal:node:history:get"),
    Route("GET", "/v1/nodes/{node}/progress", progress, "How far a node's step is", policy="baremetal:node:get_states"),
)
