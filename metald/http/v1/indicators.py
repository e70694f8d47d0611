"""`/v1/nodes/{node}/management/indicators`: the lights of a machine."""

from __future__ import annotations

from typing import Any

from metald.drivers.board import Indicator
from metald.http.call import Call
from metald.http.route import Route
from metald.http.schema import Schema
from metald.http.v1 import lookups

STATE: Schema = {
    "type": "object",
    "properties": {"state": {"type": "string", "maxLength": 32}},
    "required": ["state"],
    "additionalProperties": False,
}


def _shown(call: Call, node_uuid: str, light: Indicator) -> dict[str, Any]:
    path = f"nodes/{node_uuid}/management/indicators/{light.label}"
    return {
        "name": light.label,
        "component": light.component,
        "readonly": light.readonly,
        "states": list(light.states),
        "links": [{"href": f"{call.base}/v1/{path}", "rel": "self"}, {"href": f"{call.base}/{path}", "rel": "bookmark"}],
    }


async def list_indicators(call: Call) -> dict[str, Any]:
    """List a machine's lights."""
    node = lookups.node(call)
    lights = await call.services.hardware.indicators(node.uuid)
    return {"indicators": [_shown(call, node.uuid, light) for light in lights]}


async def show_indicator(call: Call) -> dict[str, Any]:
    """Ask for the state of a light."""
    node = lookups.node(call)
    return {"state": await call.services.hardware.get_indicator(node.uuid, call.path["indicator"])}


async def set_indicator(call: Call) -> None:
    """Change a light."""
    node = lookups.node(call)
    await call.services.hardware.set_indicator(node.uuid, call.path["indicator"], call.body["state"], call.caller)


_PATH = "/v1/nodes/{node}/management/indicators"
ROUTES = (
    Route("GET", _PATH, list_indicators, "List lights", policy="baremetal:node:get_indicator_state"),
    Route("GET", f"{_PATH}/{{indicator}}", show_indicator, "Show a light's state", policy="baremetal:node:get_indicator_state"),
    Route(
        "PUT",
        f"{_PATH}/{{indicator}}",
        set_indicator,
        "Change a light",
        body=STATE,
        status=204,
        policy="baremetal:node:set_indicator_state",
    ),
)
