"""`/v1/nodes/{node}/states/console`: the way to a machine's console."""

from __future__ import annotations

from typing import Any

from metald.errors import Invalid
from metald.http import values
from metald.http.call import Call, Reply
from metald.http.route import BOOLEAN, Arg, Route
from metald.http.schema import Schema
from metald.http.v1 import lookups

# `enabled` may stand in the query instead of the body, which is how the oldest clients send it.
ENABLED: Schema = {
    "type": "object",
    "properties": {"enabled": {"type": ["boolean", "string", "integer", "null"]}},
    "additionalProperties": False,
}


async def show(call: Call) -> dict[str, Any]:
    """Where the console is; not being enabled is no error."""
    info = await call.services.hardware.console(lookups.node(call).uuid)
    if info is not None and str(info.get("url") or "").startswith("/"):
        page = info.get("type") == "vnc"
        info = {**info, "url": f"{call.base if page else 'ws' + call.base.removeprefix('http')}{info['url']}"}
    return {"console_enabled": info is not None, "console_info": info}


async def switch(call: Call) -> Reply:
    """Open or close the console."""
    node = lookups.node(call)
    given = {**call.args, **call.body}
    if "enabled" not in given:
        raise Invalid("Missing mandatory parameter: enabled", field="enabled")
    enabled = given["enabled"] is not None and values.boolean("enabled", given["enabled"])
    await call.services.hardware.set_console(node.uuid, enabled, call.caller)
    return Reply(location=call.url(f"nodes/{call.path['node']}/states/console"))


_PATH = "/v1/nodes/{node}/states/console"
ROUTES = (
    Route("GET", _PATH, show, "Show the console", policy="baremetal:node:get_console"),
    Route(
        "PUT",
        _PATH,
        switch,
        "Open or close the console",
        args=(Arg("enabled", BOOLEAN),),
        body=ENABLED,
        status=202,
        policy="baremetal:node:set_console_state",
    ),
)
