"""`/v1/nodes/{node}/explain`: why a node is not available or cannot be deployed. metald's own."""

from __future__ import annotations

from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.v1 import lookups
from metald.http.v1.own import ALWAYS


async def explain(call: Call) -> Reply:
    """Why a node is not available, or cannot be deployed: every cause with its code and remedy."""
    return Reply.of(await call.services.adviser.explain(lookups.node(call, names_since=ALWAYS).uuid))


ROUTES = (
    Route(
        "GET",
        "/v1/nodes/{node}/explain",
        explain,
        "Explain why a node is not available or cannot be deployed",
        policy="baremetal:node:get:last_error",
    ),
)
