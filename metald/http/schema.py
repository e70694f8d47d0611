"""The part of JSON Schema that request bodies need, read straight from the dicts that the OpenAPI document publishes.

`conform` checks a value and returns it in metald's form: the formats `boolean`, `uuid`, `identifier` and `mac` are also
read leniently, as Ironic does, and normalised. It neither recurses deeper than its schema nor quotes what it was given at
length, so that neither depth nor secrets come back in an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from metald.errors import Invalid
from metald.http import values

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
_FORMATS: Mapping[str, Callable[[str, Any], Any]] = {
    "boolean": values.boolean,
    "uuid": values.uuid_text,
    "identifier": values.identifier,
    "mac": values.mac,
    "ipv4": values.ipv4,
    "ipv6": values.ipv6,
    "ipv6-host": values.ipv6_host,
}

NULLABLE_TEXT: Schema = {"type": ["string", "null"]}
NULLABLE_BOOLEAN: Schema = {"type": ["string", "boolean", "null"], "format": "boolean"}
NULLABLE_UUID: Schema = {"type": ["string", "null"], "format": "uuid"}
NULLABLE_IDENTIFIER: Schema = {"type": ["string", "null"], "format": "identifier"}
NULLABLE_OBJECT: Schema = {"type": ["object", "null"]}


def conform(value: Any, schema: Schema, name: str, path: str = "") -> Any:
    """`value` as `schema` wants it.

    Args:
        value: what a client sent.
        schema: what it shall be.
        name: what error texts call the whole.
        path: where in the whole the value stands.

    Raises:
        Invalid: with the path of the offending part as its field.
    """
    if "anyOf" in schema:
        return _any_of(value, schema["anyOf"], name, path)
    types = schema.get("type")
    if types is not None and not _is(value, types):
        expected = ", ".join(repr(kind) for kind in ([types] if isinstance(types, str) else types))
        raise _wrong(f"{_kind(value)} is not of type {expected}", name, path)
    if "enum" in schema and value not in schema["enum"]:
        raise _wrong(f"{values.shown(value)} is not one of {list(schema['enum'])}", name, path)
    if value is None:
        return None
    if isinstance(value, str):
        _check_text(value, schema, name, path)
    elif isinstance(value, dict):
        value = _object(value, schema, name, path)
    elif isinstance(value, list):
        value = _array(value, schema, name, path)
    elif not isinstance(value, bool):
        _check_number(value, schema, name, path)
    form = _FORMATS.get(schema.get("format", ""))
    return form(path or name, value) if form is not None else value


def _wrong(what: str, name: str, path: str, *, remedy: str = "") -> Invalid:
    place = f", at {path}" if path else ""
    return Invalid(f"Schema error for {name}: {what}{place}", remedy=remedy, field=path or name)


def _kind(value: Any) -> str:
    return next((kind for kind in ("null", "boolean", "integer", "number", "string", "array", "object") if _is(value, kind)), "value")


def _is(value: Any, types: str | list[str]) -> bool:
    wanted = (types,) if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in wanted
    return any(isinstance(value, _TYPES[kind]) for kind in wanted)


def _any_of(value: Any, choices: list[Schema], name: str, path: str) -> Any:
    reasons = []
    for choice in choices:
        try:
            return conform(value, choice, name, path)
        except Invalid as error:
            reasons.append(error)
    # The most telling reason is the one found deepest inside the value, for the form that is described last and fully.
    raise max(reversed(reasons), key=lambda error: 0 if error.field == (path or name) else 1 + str(error.field).count("/"))


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _check_text(value: str, schema: Schema, name: str, path: str) -> None:
    if len(value) > schema.get("maxLength", len(value)):
        raise _wrong(f"{values.shown(value)} is too long: at most {schema['maxLength']} characters", name, path)
    if len(value) < schema.get("minLength", 0):
        raise _wrong(f"{values.shown(value)} is too short, it should be non-empty", name, path)
    if "pattern" in schema and _pattern(schema["pattern"]).search(value) is None:
        raise _wrong(f"{values.shown(value)} does not match {schema['pattern']!r}", name, path)


def _check_number(value: int | float, schema: Schema, name: str, path: str) -> None:
    if value < schema.get("minimum", value):
        raise _wrong(f"{value} is less than the minimum of {schema['minimum']}", name, path)
    if value > schema.get("maximum", value):
        raise _wrong(f"{value} is greater than the maximum of {schema['maximum']}", name, path)


def _object(value: dict[str, Any], schema: Schema, name: str, path: str) -> dict[str, Any]:
    for key in schema.get("required", ()):
        if key not in value:
            raise _wrong(f"{key!r} is a required property", name, _under(path, key))
    properties = schema.get("properties")
    others = schema.get("additionalProperties", True)
    if properties is None and others is True:
        return value
    found = {}
    for key, item in value.items():
        known = (properties or {}).get(key)
        if known is not None:
            found[key] = conform(item, known, name, _under(path, key))
        elif others is False:
            names = ", ".join(properties or ())
            remedy = f"Known are: {names}." if names else ""
            raise _wrong(
                f"Additional properties are not allowed ({values.shown(key)} was unexpected)", name, _under(path, key), remedy=remedy
            )
        else:
            found[key] = item if others is True else conform(item, others, name, _under(path, key))
    for key, needed in schema.get("dependentRequired", {}).items():
        if key in value and (missing := [n for n in needed if n not in value]):
            raise _wrong(f"{missing[0]!r} is a dependency of {key!r}", name, _under(path, missing[0]))
    return found


def _under(path: str, key: str) -> str:
    return f"{path}/{key[:80]}" if path else key[:80]


def _array(value: list[Any], schema: Schema, name: str, path: str) -> list[Any]:
    if len(value) < schema.get("minItems", 0):
        raise _wrong("[] is too short, it should be non-empty", name, path)
    if len(value) > schema.get("maxItems", len(value)):
        raise _wrong(f"the array is too long: at most {schema['maxItems']} items", name, path)
    items = schema.get("items")
    return value if items is None else [conform(item, items, name, _under(path, str(index))) for index, item in enumerate(value)]
