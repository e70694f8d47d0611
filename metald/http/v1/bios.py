"""`/v1/nodes/{node}/bios`: the settings of a machine's firmware set-up, as they were last seen."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from metald.errors import Invalid, NotFound
from metald.http import values
from metald.http.call import Call
from metald.http.route import DETAIL, FIELDS, Route
from metald.http.v1 import lookups
from metald.http.views import iso
from metald.model import BiosSetting

_SINCE = 40
_REGISTRY_SINCE = 74
_PLAIN = ("name", "value")
_FULL = (
    *_PLAIN,
    "attribute_type",
    "allowable_values",
    "lower_bound",
    "max_length",
    "min_length",
    "read_only",
    "reset_required",
    "unique",
    "upper_bound",
)
_ALWAYS = ("created_at", "updated_at", "links")


def _shown(call: Call, node_uuid: str, setting: BiosSetting, names: tuple[str, ...]) -> dict[str, Any]:
    path = f"nodes/{node_uuid}/bios/{quote(setting.name, safe='')}"
    return {
        "created_at": iso(setting.created_at),
        "updated_at": iso(setting.updated_at),
        **{name: getattr(setting, name) for name in names},
        "links": [{"href": f"{call.base}/v1/{path}", "rel": "self"}, {"href": f"{call.base}/{path}", "rel": "bookmark"}],
    }


async def list_settings(call: Call) -> dict[str, Any]:
    """List a node's BIOS settings."""
    node = lookups.node(call)
    names = _names(call)
    return {"bios": [_shown(call, node.uuid, setting, names) for setting in call.services.hardware.bios(node.uuid)]}


def _names(call: Call) -> tuple[str, ...]:
    fields, detail = call.args.get("fields"), call.args.get("detail")
    for name in ("detail", "fields"):
        if name in call.args and call.version < _REGISTRY_SINCE:
            raise Invalid(f"Unexpected arguments: {name}", remedy=f"It needs version 1.{_REGISTRY_SINCE}.", field=name)
    if fields is None:
        return _FULL if detail else _PLAIN
    if detail:
        raise Invalid("Can not specify ?detail=True and fields in the same request.", field="fields")
    wrong = [name for name in fields if name not in (*_FULL, *_ALWAYS, "node_uuid")]
    if wrong:
        raise Invalid(f"{values.shown(wrong[0])} is not one of {sorted((*_FULL, *_ALWAYS))}", field="fields")
    return tuple(name for name in _FULL if name in fields)


async def show_setting(call: Call) -> dict[str, Any]:
    """Show a BIOS setting."""
    node = lookups.node(call)
    name = call.path["setting"]
    for setting in call.services.hardware.bios(node.uuid):
        if setting.name == name:
            return {name: _shown(call, node.uuid, setting, _FULL if call.version >= _REGISTRY_SINCE else _PLAIN)}
    raise NotFound(f"Node {node.uuid} doesn't have a BIOS setting {values.shown(name)}", field="setting")


_PATH = "/v1/nodes/{node}/bios"
ROUTES = (
    Route("GET", _PATH, list_settings, "List BIOS settings", since=_SINCE, args=(DETAIL, FIELDS), policy="baremetal:node:bios:get"),
    Route("GET", f"{_PATH}/{{setting}}", show_setting, "Show a BIOS setting", since=_SINCE, policy="baremetal:node:bios:get"),
)
