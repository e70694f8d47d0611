"""The registry of commands: what may be asked by a message, in one table, with the arguments of each.

The door of commands holds to it, and the AsyncAPI document is made of it. `request` names the HTTP request whose body the
remaining arguments are; its schema is in the OpenAPI document.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec

from metald.model.states import Verb


class CommandType(msgspec.Struct, frozen=True):
    """One type of command."""

    name: str
    text: str
    """What it does, as a sentence without a subject."""
    request: str
    """The request of the HTTP API that it stands for."""
    required: tuple[str, ...] = ()
    """Arguments that it must have."""
    more: tuple[str, ...] = ()
    """Arguments that it may have, where it takes no others."""


_PROVISION = "PUT /v1/nodes/{node}/states/provision"
_SENTENCES = MappingProxyType(
    {
        Verb.MANAGE: "Takes a node into management",
        Verb.PROVIDE: "Makes a node available",
        Verb.INSPECT: "Inspects a node",
        Verb.CLEAN: "Cleans a node by given steps",
        Verb.ADOPT: "Adopts a node that runs already",
        Verb.DEPLOY: "Deploys a node",
        Verb.REBUILD: "Deploys a node again",
        Verb.DELETE: "Tears an instance down",
        Verb.ABORT: "Ends what is waited for",
        Verb.RESCUE: "Boots a rescue system",
        Verb.UNRESCUE: "Ends the rescue system",
        Verb.UNHOLD: "Goes on after a hold",
        Verb.SERVICE: "Changes a node that is in use, by given steps",
    }
)
_STEPS = MappingProxyType({Verb.CLEAN: "clean_steps", Verb.SERVICE: "service_steps"})


def _provision(verb: Verb) -> CommandType:
    steps = _STEPS.get(verb)
    name = "undeploy" if verb is Verb.DELETE else verb.value
    more = (steps,) if steps else ()
    return CommandType(f"node.{name}", _SENTENCES[verb], _PROVISION, ("node",), more)


COMMAND_TYPES: MappingProxyType[str, CommandType] = MappingProxyType(
    {
        one.name: one
        for one in (
            CommandType("node.create", "Enrols a node", "POST /v1/nodes", ("driver",)),
            CommandType("node.update", "Changes a node", "PATCH /v1/nodes/{node}", ("node", "patch")),
            CommandType("node.delete", "Removes a node", "DELETE /v1/nodes/{node}", ("node",)),
            *map(_provision, Verb),
            CommandType("node.power", "Changes a node's power", "PUT /v1/nodes/{node}/states/power", ("node", "target"), ("timeout",)),
            CommandType(
                "node.boot_device",
                "Sets what a node boots from",
                "PUT /v1/nodes/{node}/management/boot_device",
                ("node", "boot_device"),
                ("persistent",),
            ),
            CommandType(
                "node.maintenance",
                "Sets maintenance, or with `maintenance` false clears it",
                "PUT /v1/nodes/{node}/maintenance",
                ("node",),
                ("maintenance", "reason"),
            ),
            CommandType("port.create", "Adds a port to a node", "POST /v1/ports", ("address",)),
            CommandType("port.update", "Changes a port", "PATCH /v1/ports/{port}", ("port", "patch")),
            CommandType("port.delete", "Removes a port", "DELETE /v1/ports/{port}", ("port",)),
        )
    }
)
"""Every type of command, by name."""

REPLY: dict[str, Any] = {
    "type": "object",
    "title": "Reply",
    "description": "What became of a command.",
    "properties": {
        "command": {"type": "string", "description": "The id that the command was sent with."},
        "verb": {"type": "string", "description": "What it asked for, such as `node.deploy`."},
        "status": {"enum": ["accepted", "refused", "partly accepted"]},
        "workflow": {"type": "string", "format": "uuid", "description": "What was started, if anything."},
        "node": {"type": "string", "format": "uuid", "description": "The node that it was about, or that it made."},
        "port": {"type": "string", "format": "uuid", "description": "The port that it was about, or that it made."},
        "code": {"type": "integer", "description": "The status with which HTTP would have refused it."},
        "error": {"type": "object", "description": "The body with which HTTP would have refused it."},
        "accepted": {"type": "integer", "description": "Of a command of many: how many of them."},
        "refused": {"type": "integer", "description": "How many not."},
        "parts": {"type": "array", "items": {"type": "object"}, "description": "Of a command of many: the outcome of each, in order."},
    },
    "required": ["command", "verb", "status"],
}


def arguments(one: CommandType) -> dict[str, Any]:
    """The JSON Schema of a command's arguments, in the form for one thing."""
    texts = {"node": "UUID or name of the node.", "port": "UUID or name of the port."}
    known: dict[str, Any] = {name: {"description": texts.get(name, f"See {one.request}.")} for name in (*one.required, *one.more)}
    known |= {name: {"type": "string", **known[name]} for name in texts if name in known}
    return {
        "type": "object",
        "description": f"{one.text}. Further arguments are those of {one.request}. "
        "Many at once: a list `nodes` (`ports`) in place of `node` (`port`), or `items`, a list of such objects.",
        "properties": known,
    }
