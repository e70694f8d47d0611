"""Request schemas as the OpenAPI document publishes them: exactly what `schema.conform` lets through, in JSON Schema's own words.

The formats of `schema.conform` are lenient (a boolean in words, a MAC address with dashes) and not JSON Schema's; here they
become patterns. A running daemon adds what only it knows: the hardware types and interfaces that are enabled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metald.http import values
from metald.http.schema import Schema
from metald.model import INTERFACES


def _in_any_case(word: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in word)


NAME = "^[A-Za-z0-9._~-]{1,255}$"
_WORDS = f"^({'|'.join(_in_any_case(word) for word in sorted(values.TRUE | values.FALSE))})$"
_PATTERNS: Mapping[str, Mapping[str, Any]] = {
    "identifier": {"pattern": NAME, "description": "A UUID or a name."},
    "mac": {"pattern": "^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$", "description": "A MAC address."},
    "ipv6-host": {"pattern": "^[0-9A-Fa-f:.]+(%[^/]+)?(/[0-9]{1,3})?$", "description": "An IPv6 address, or one with its prefix length."},
}


@dataclass(frozen=True, slots=True)
class Site:
    """What a running daemon adds to the document."""

    auth: Literal["any", "noauth", "http_basic", "keystone"] = "any"
    """How callers prove who they are; `any` for the document that is about all daemons."""
    drivers: Sequence[str] = ()
    interfaces: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By kind, the names of interfaces that some enabled hardware type supports."""


def published(schema: Schema, site: Site) -> dict[str, Any]:
    """A schema of a request in JSON Schema's own words."""
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: _property(name, inner, site) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            found[key] = published(value, site)
        elif key == "anyOf":
            found[key] = [published(choice, site) for choice in value]
        else:
            found[key] = value
    return _formatted(found)


def _formatted(schema: dict[str, Any]) -> dict[str, Any]:
    kind = str(schema.get("format"))
    if kind == "boolean":
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        others = [name for name in types if name != "string"]
        rest = {key: value for key, value in schema.items() if key not in ("type", "format")}
        return {**rest, "anyOf": [{"type": others}, {"type": "string", "pattern": _WORDS, "description": "A boolean in words."}]}
    if kind in _PATTERNS:
        return {**{key: value for key, value in schema.items() if key != "format"}, **_PATTERNS[kind]}
    return schema


def _property(name: str, schema: Schema, site: Site) -> dict[str, Any]:
    found = published(schema, site)
    if name == "driver" and site.drivers:
        return {**found, "enum": list(site.drivers)}
    kind = name.removesuffix("_interface")
    if name != kind and kind in INTERFACES and kind in site.interfaces:
        return {**found, "enum": [*site.interfaces[kind], None]}
    return found


def argument(schema: Schema) -> dict[str, Any]:
    """The schema of a query argument in JSON Schema's own words."""
    if schema.get("type") == "boolean":
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": _WORDS}]}
    # A list of one word and a word are the same on the wire.
    return {"anyOf": [dict(schema), {"type": "string"}]} if "items" in schema else _formatted(dict(schema))
