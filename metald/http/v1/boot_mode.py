"""`/v1/nodes/{node}/states/boot_mode` and `.../secure_boot`: how a machine's firmware starts."""

from __future__ import annotations

from metald.errors import Invalid
from metald.http import values
from metald.http.call import Call, Reply
from metald.http.route import Route
from metald.http.schema import NULLABLE_TEXT, Schema
from metald.http.v1 import lookups
from metald.model import BootMode

_SINCE = 76
MODE: Schema = {"type": "object", "properties": {"target": NULLABLE_TEXT}, "required": ["target"], "additionalProperties": False}
SECURE: Schema = {
    "type": "object",
    "properties": {"target": {"type": ["boolean", "string", "integer", "null"]}},
    "required": ["target"],
    "additionalProperties": False,
}


async def set_boot_mode(call: Call) -> Reply:
    """Ask for a firmware mode."""
    node = lookups.node(call)
    target = call.body["target"]
    if target not in set(BootMode):
        raise Invalid(
            f"Invalid boot mode {str(target)[:80]} requested for node. Allowed boot modes are: {', '.join(sorted(BootMode))}",
            field="target",
        )
    await call.services.hardware.set_boot_mode(node.uuid, BootMode(target), call.caller)
    return _accepted(call)


async def set_secure_boot(call: Call) -> Reply:
    """Ask for secure boot or against it."""
    node = lookups.node(call)
    target = call.body["target"]
    if target is None:
        raise Invalid("Invalid secure_boot None requested for node. Allowed secure_boot states are: True, False", field="target")
    await call.services.hardware.set_secure_boot(node.uuid, values.boolean("target", target), call.caller)
    return _accepted(call)


def _accepted(call: Call) -> Reply:
    return Reply(location=call.url(f"nodes/{call.path['node']}/states"))


ROUTES = (
    Route(
        "PUT",
        "/v1/nodes/{node}/states/boot_mode",
        set_boot_mode,
        "Change the boot mode",
        since=_SINCE,
        policy_first=True,
        body=MODE,
        status=202,
        policy="baremetal:node:set_boot_mode",
    ),
    Route(
        "PUT",
        "/v1/nodes/{node}/states/secure_boot",
        set_secure_boot,
        "Change secure boot",
        since=_SINCE,
        policy_first=True,
        body=SECURE,
        status=202,
        policy="baremetal:node:set_secure_boot",
    ),
)
