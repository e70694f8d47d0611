"""What a node's BMC measures, and what was said to it last."""

from __future__ import annotations

import dataclasses

from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.v1 import lookups

_ALWAYS = 1  # names have stood for nodes in these paths from the beginning


async def sensors(call: Call) -> Reply:
    """Every sensor, read once; within the request, so it takes as long as the BMC takes."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"sensors": [dataclasses.asdict(sensor) for sensor in await call.services.hardware.sensors(node.uuid)]})


async def exchange(call: Call) -> Reply:
    """The recent exchange with the BMC, oldest first, without secrets."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"exchange": list(await call.services.hardware.exchange(node.uuid))})


_PATH = "/v1/nodes/{node}/management"
ROUTES = (
    Route("GET", f"{_PATH}/sensors", sensors, "Read a node's sensors", policy="baremetal:node:get_boot_device"),
    Route("GET", f"{_PATH}/exchange", exchange, "What was said to a node's BMC last", policy="baremetal:node:history:get"),
)
