"""`/v1/nodes/{node}/firmware`: the components of a machine's firmware, as they were last seen."""

from __future__ import annotations

from typing import Any

from metald.errors import Invalid
from metald.http import values
from metald.http.call import Call
from metald.http.route import FIELDS, Route
from metald.http.v1 import lookups
from metald.http.views import iso
from metald.model import FirmwareComponent

_SINCE = 86
_IDENTITY_SINCE = 114
_PLAIN = ("component", "initial_version", "current_version", "last_version_flashed")
_IDENTITY = ("vendor", "model", "serial_number")
_TIMES = ("created_at", "updated_at")


def _shown(component: FirmwareComponent, names: tuple[str, ...]) -> dict[str, Any]:
    times = {"created_at": iso(component.created_at), "updated_at": iso(component.updated_at)}
    return {**times, **{name: getattr(component, name) for name in names}}


async def list_components(call: Call) -> dict[str, Any]:
    """List a node's firmware components."""
    node = lookups.node(call)
    names = _names(call)
    return {"firmware": [_shown(component, names) for component in call.services.hardware.firmware(node.uuid)]}


def _names(call: Call) -> tuple[str, ...]:
    known = (*_PLAIN, *_IDENTITY)
    fields = call.args.get("fields")
    if fields is None:
        return known if call.version >= _IDENTITY_SINCE else _PLAIN
    wrong = [name for name in fields if name not in (*known, *_TIMES)]
    if wrong:
        raise Invalid(f"{values.shown(wrong[0])} is not one of {sorted((*known, *_TIMES))}", field="fields")
    newer = sorted(set(fields) & set(_IDENTITY))
    if newer and call.version < _IDENTITY_SINCE:
        raise Invalid(
            f"Fields {', '.join(newer)} are not allowed in this API version. They require at least API version 1.{_IDENTITY_SINCE}.",
            field="fields",
        )
    return tuple(name for name in known if name in fields)


ROUTES = (
    Route(
        "GET",
        "/v1/nodes/{node}/firmware",
        list_components,
        "List firmware components",
        since=_SINCE,
        args=(FIELDS,),
        policy="baremetal:node:firmware:get",
    ),
)
