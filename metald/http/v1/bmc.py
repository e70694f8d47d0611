"""What a node's BMC measures and knows, and what was said to it last."""

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


async def parts(call: Call) -> Reply:
    """What the BMC knows of the machine's replaceable parts."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"parts": list(await call.services.hardware.parts(node.uuid))})


async def network(call: Call) -> Reply:
    """How the BMC itself is on the network."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"network": dict(await call.services.hardware.bmc_network(node.uuid))})


async def event_log(call: Call) -> Reply:
    """The BMC's own log, oldest first; within the request, so it takes as long as the BMC takes."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"event_log": list(await call.services.hardware.event_log(node.uuid))})


async def exchange(call: Call) -> Reply:
    """The recent exchange with the BMC, oldest first, without secrets."""
    node = lookups.node(call, names_since=_ALWAYS)
    return Reply.of({"exchange": list(await call.services.hardware.exchange(node.uuid))})


_PATH = "/v1/nodes/{node}/management"
ROUTES = (
    Route("GET", f"{_PATH}/sensors", sensors, "Read a node's sensors", policy="baremetal:node:get_boot_device"),
    Route("GET", f"{_PATH}/parts", parts, "Read what a node's BMC knows of its parts", policy="baremetal:node:get_boot_device"),
    Route("GET", f"{_PATH}/network", network, "Read how a node's BMC is on the network", policy="baremetal:node:get_boot_device"),
    Route("GET", f"{_PATH}/event_log", event_log, "Read the log of a node's BMC", policy="baremetal:node:get_boot_device"),
    Route("GET", f"{_PATH}/exchange", exchange, "What was said to a node's BMC last", policy="baremetal:node:history:get"),
)
