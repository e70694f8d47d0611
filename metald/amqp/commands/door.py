"""The door that commands go through: each verb is one request of the HTTP API, checked and allowed as it is there.

A command is thus refused for the same reasons, with the same words and the same problem object, by the same rules of who
may do what. What the application hands in for `Perform` calls the API's own table of routes, without a network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from metald.errors import Invalid, MetaldError
from metald.model import Verb
from metald.model.caller import Caller
from metald.model.commandtypes import COMMAND_TYPES


class Api(Protocol):
    """The API, as far as commands need it."""

    def perform(self, method: str, path: Sequence[str], body: Any, caller: Caller) -> Awaitable[None]:
        """Do what a request would; raises what it would be refused with."""

    def problem(self, error: MetaldError) -> bytes:
        """The JSON object that a request would be refused with."""


class Request(NamedTuple):
    """One request of the API."""

    method: str
    path: tuple[str, ...]
    body: Any = None


_TARGETS = MappingProxyType({**{verb.value: verb.value for verb in Verb if verb is not Verb.DELETE}, "undeploy": "deleted"})
_PUTS = MappingProxyType(
    {"power": ("states", "power"), "boot_device": ("management", "boot_device")},
)
OVERTAKING = frozenset({"node.abort"})
"""Verbs that are about what runs now, and so do not wait behind commands that wait for its end."""
ASKS_HARDWARE = frozenset({"node.boot_device"})
"""Verbs that are done when the hardware has answered; all others write down what is to be done with it."""
MOST_PARTS = 1000


def parts(verb: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The arguments of each command that a command of many is made of; None for a single one.

    `nodes` (or `ports`) lists what all the other arguments are for; `items` lists whole arguments.

    Raises:
        Invalid: the list is empty, too long, or not a list of what it should be.
    """
    kind = verb.partition(".")[0]
    name = "items" if "items" in arguments else f"{kind}s" if f"{kind}s" in arguments else None
    if name is None:
        return None
    listed = arguments[name]
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_PARTS:
        raise Invalid(f"{name} must be a list of 1 to {MOST_PARTS}.", field=name)
    if name == "items":
        if len(arguments) > 1 or not all(isinstance(item, dict) for item in listed):
            raise Invalid("items must be a list of objects, and stand alone.", field=name)
        return [dict(item) for item in listed]
    if kind in arguments:
        raise Invalid(f"{kind} and {name} exclude each other.", field=name)
    common = {key: value for key, value in arguments.items() if key != name}
    return [{kind: item, **common} for item in listed]


def request(verb: str, arguments: Mapping[str, Any]) -> Request:
    """The request that a command stands for.

    Raises:
        Invalid: there is no such verb, or what it is about is not named.
    """
    if verb not in COMMAND_TYPES:
        raise Invalid(f"There is no command {verb[:80]!r}.", remedy=f"There are: {', '.join(COMMAND_TYPES)}.", field="type")
    kind, _, name = verb.partition(".")
    plural = f"{kind}s"
    if name == "create":
        return Request("POST", (plural,), dict(arguments))
    ident = arguments.get(kind)
    if not isinstance(ident, str) or not ident:
        raise Invalid(f"{kind} is missing.", remedy=f"Give the UUID or the name of the {kind}.", field=kind)
    rest = {key: value for key, value in arguments.items() if key != kind}
    at = (plural, ident)
    if name == "update":
        if set(rest) != {"patch"}:
            raise Invalid("An update takes patch, and nothing else.", remedy="Give a JSON patch (RFC 6902).", field="patch")
        return Request("PATCH", at, rest["patch"])
    if name == "delete":
        _nothing_else(rest)
        return Request("DELETE", at)
    if name == "maintenance":
        on = rest.pop("maintenance", True)
        if not isinstance(on, bool):
            raise Invalid("maintenance must be true or false.", field="maintenance")
        if not on:
            _nothing_else(rest)
        return Request("PUT" if on else "DELETE", (*at, "maintenance"), rest if on else None)
    if name in _PUTS:
        return Request("PUT", (*at, *_PUTS[name]), rest)
    if "target" in rest:
        raise Invalid("The verb says the target already.", remedy="Leave target out.", field="target")
    return Request("PUT", (*at, "states", "provision"), {"target": _TARGETS[name], **rest})


def _nothing_else(rest: Mapping[str, Any]) -> None:
    if rest:
        raise Invalid(f"{', '.join(rest)[:200]}: not taken here.", remedy="Leave it out.", field=next(iter(rest))[:80])


def about(verb: str, arguments: Mapping[str, Any]) -> list[str]:
    """Names and UUIDs of what a command is about, as far as they say which commands must keep their order."""
    kind, _, name = verb.partition(".")
    if kind == "port" and name == "create":
        found: list[Any] = [arguments.get("node_uuid"), arguments.get("node_ident")]
    elif name == "create":
        found = [arguments.get("uuid"), arguments.get("name")]
    else:
        found = [arguments.get(kind)]
    return [ident for ident in found if isinstance(ident, str) and ident]
