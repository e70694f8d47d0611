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
}

NULLABLE_TEXT: Schema = {"type": ["string", "null"]}
NULLABLE_BOOLEAN: Schema = {"type": ["string", "boolean", "null"], "format": "boolean"}
NULLABLE_UUID: Schema = {"type": ["string", "null"], "format": "uuid"}
NULLABLE_OBJECT: Schema = {"type": ["object", "null"]}


def conform(value: Any, schema: Schema, name: str) -> Any:
    """`value` as `schema` wants it; `name` is what error texts call it.

    Raises:
        Invalid: with the path of the offending part as its field.
    """
    if "anyOf" in schema:
        return _any_of(value, schema["anyOf"], name)
    types = schema.get("type")
    if types is not None and not _is(value, types):
        expected = types if isinstance(types, str) else " or ".join(types)
        raise Invalid(f"Schema error for {name}: {_kind(value)} is not of type {expected}", field=name)
    if "enum" in schema and value not in schema["enum"]:
        raise Invalid(f"Schema error for {name}: {values.shown(value)} is not one of {list(schema['enum'])}", field=name)
    if value is None:
        return None
    if isinstance(value, str):
        _check_text(value, schema, name)
    elif isinstance(value, dict):
        value = _object(value, schema, name)
    elif isinstance(value, list):
        value = _array(value, schema, name)
    elif "minimum" in schema and not isinstance(value, bool) and value < schema["minimum"]:
        raise Invalid(f"Schema error for {name}: {value} is less than the minimum of {schema['minimum']}", field=name)
    form = _FORMATS.get(schema.get("format", ""))
    return form(name, value) if form is not None else value


def _kind(value: Any) -> str:
    return next((kind for kind in ("null", "boolean", "integer", "number", "string", "array", "object") if _is(value, kind)), "value")


def _is(value: Any, types: str | list[str]) -> bool:
    wanted = (types,) if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in wanted
    return any(isinstance(value, _TYPES[kind]) for kind in wanted)


def _any_of(value: Any, choices: list[Schema], name: str) -> Any:
    reasons = []
    for choice in choices:
        try:
            return conform(value, choice, name)
        except Invalid as error:
            reasons.append(error)
    # The most telling reason is the one found deepest inside the value.
    best = max(reasons, key=lambda error: len(error.field or ""))
    raise Invalid(best.message, field=best.field)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _check_text(value: str, schema: Schema, name: str) -> None:
    if len(value) > schema.get("maxLength", len(value)):
        raise Invalid(f"Schema error for {name}: it is longer than {schema['maxLength']} characters", field=name)
    if len(value) < schema.get("minLength", 0):
        raise Invalid(f"Schema error for {name}: {values.shown(value)} is too short", field=name)
    if "pattern" in schema and _pattern(schema["pattern"]).search(value) is None:
        raise Invalid(f"Schema error for {name}: {values.shown(value)} does not match {schema['pattern']!r}", field=name)


def _object(value: dict[str, Any], schema: Schema, name: str) -> dict[str, Any]:
    for key in schema.get("required", ()):
        if key not in value:
            raise Invalid(f"Schema error for {name}: {key!r} is a required property", field=_under(name, key))
    properties = schema.get("properties")
    others = schema.get("additionalProperties", True)
    if properties is None and others is True:
        return value
    found = {}
    for key, item in value.items():
        known = (properties or {}).get(key)
        if known is not None:
            found[key] = conform(item, known, _under(name, key))
        elif others is False:
            known_names = ", ".join(properties or ())
            raise Invalid(
                f"Schema error for {name}: Additional properties are not allowed ({values.shown(key)} was unexpected)",
                remedy=f"Known are: {known_names}." if known_names else "",
                field=_under(name, key),
            )
        else:
            found[key] = item if others is True else conform(item, others, _under(name, key))
    for key, needed in schema.get("dependentRequired", {}).items():
        if key in value and (missing := [n for n in needed if n not in value]):
            raise Invalid(f"Schema error for {name}: {missing[0]!r} is a dependency of {key!r}", field=_under(name, missing[0]))
    return found


def _under(name: str, key: str) -> str:
    return f"{name}/{key[:80]}"


def _array(value: list[Any], schema: Schema, name: str) -> list[Any]:
    if len(value) < schema.get("minItems", 0):
        raise Invalid(f"Schema error for {name}: it must have at least {schema['minItems']} items", field=name)
    if len(value) > schema.get("maxItems", len(value)):
        raise Invalid(f"Schema error for {name}: it has more than {schema['maxItems']} items", field=name)
    items = schema.get("items")
    return value if items is None else [conform(item, items, f"{name}/{index}") for index, item in enumerate(value)]
