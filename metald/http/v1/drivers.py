"""`/v1/drivers` and `/v1/conductors`: what hardware can be driven, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.base import HardwareType
from metald.errors import Invalid, NotAcceptable, NotFound
from metald.http import listing, values
from metald.http.call import Call
from metald.http.route import DETAIL, FIELDS, INTEGER, Arg, Route
from metald.model import INTERFACES, Conductor

_DYNAMIC_SINCE = 30
_PROPERTIES_SINCE = 14
_FIELDS_SINCE = 77
_INTERFACE_SINCE: Mapping[str, int] = {"storage": 33, "rescue": 38, "bios": 40, "firmware": 86}
_PLAIN = ("name", "hosts", "type", "links", "properties")


def _driver(call: Call, hardware_type: HardwareType, *, detail: bool) -> dict[str, Any]:
    name = hardware_type.name
    hosts = sorted(c.hostname for c in call.services.store.table(Conductor) if name in c.drivers) or [call.services.conductor.hostname]
    found: dict[str, Any] = {"name": name, "hosts": hosts, "links": _links(call, name)}
    if call.version >= _PROPERTIES_SINCE:
        found["properties"] = _links(call, f"{name}/properties")
    if call.version < _DYNAMIC_SINCE:
        return found
    found["type"] = "dynamic"
    if detail:
        for kind in INTERFACES:
            if call.version >= _INTERFACE_SINCE.get(kind, 1):
                enabled = list(call.services.registry.supported(name, kind))
                found[f"default_{kind}_interface"] = enabled[0] if enabled else None
                found[f"enabled_{kind}_interfaces"] = sorted(enabled)
    return found


def _links(call: Call, path: str) -> list[dict[str, str]]:
    return [
        {"href": f"{call.base}/v1/drivers/{path}", "rel": "self"},
        {"href": f"{call.base}/drivers/{path}", "rel": "bookmark"},
    ]


def _known(call: Call) -> set[str]:
    kinds = [kind for kind in INTERFACES if call.version >= _INTERFACE_SINCE.get(kind, 1)]
    return {*_PLAIN, *(f"default_{kind}_interface" for kind in kinds), *(f"enabled_{kind}_interfaces" for kind in kinds)}


def _chosen(call: Call, driver: dict[str, Any]) -> dict[str, Any]:
    names = call.args.get("fields")
    if names is None:
        return driver
    if call.version < _FIELDS_SINCE:
        raise NotAcceptable("Request not acceptable.", remedy=f"fields needs version 1.{_FIELDS_SINCE}.", field="fields")
    wrong = [name for name in names if name not in _known(call)]
    if wrong:
        raise Invalid(
            f'Field(s) "{", ".join(wrong)[:80]}" are not valid', remedy=f"Known are: {', '.join(sorted(_known(call)))}.", field="fields"
        )
    return {name: value for name, value in driver.items() if name in names or name == "links"}


async def list_drivers(call: Call) -> dict[str, Any]:
    """List hardware types."""
    kind, detail = call.args.get("type"), call.args.get("detail")
    if (kind is not None or detail is not None) and call.version < _DYNAMIC_SINCE:
        raise NotAcceptable(f"Request not acceptable. The minimal required API version should be 1.{_DYNAMIC_SINCE}", field="detail")
    if kind not in (None, "classic", "dynamic"):
        raise Invalid('"type" must be one of "classic", "dynamic"', field="type")
    if detail and "fields" in call.args:
        raise Invalid("Can not specify ?detail=True and fields in the same request.", field="fields")
    types = () if kind == "classic" else sorted(call.services.registry.hardware_types(), key=lambda t: t.name)
    full = bool(detail) or "fields" in call.args
    return {"drivers": [_chosen(call, _driver(call, hardware_type, detail=full)) for hardware_type in types]}


def _find(call: Call) -> HardwareType:
    name = call.path["driver"]
    for hardware_type in call.services.registry.hardware_types():
        if hardware_type.name == name:
            return hardware_type
    raise NotFound(
        f"Could not find the following driver(s) or hardware type(s): {values.shown(name)[1:-1]}.",
        remedy=f"Enabled: {', '.join(t.name for t in call.services.registry.hardware_types())}.",
        field="driver",
    )


async def show_driver(call: Call) -> dict[str, Any]:
    """Show a hardware type."""
    return _chosen(call, _driver(call, _find(call), detail=True))


async def properties(call: Call) -> dict[str, str]:
    """The driver_info keys that a hardware type reads."""
    return call.services.registry.properties(_find(call).name)


async def list_conductors(call: Call) -> bytes:
    """List conductors."""
    names = listing.chosen_fields(call, call.services.views.conductors, detail=call.args.get("detail"), since_detail=49)
    marker = None
    if "marker" in call.args:
        marker = _conductor(call, call.args["marker"])
    return listing.page(call, call.services.views.conductors, call.services.store.table(Conductor), names, marker=marker)


async def show_conductor(call: Call) -> bytes:
    """Show a conductor."""
    names = call.services.views.conductors.check(call.args["fields"], call.version) if call.args else None
    return call.services.views.conductors.one(_conductor(call, call.path["conductor"]), call.version, call.base, names)


def _conductor(call: Call, hostname: str) -> Conductor:
    found = call.services.store.table(Conductor).by("hostname", hostname)
    if found is None:
        raise NotFound(f"Conductor {values.shown(hostname)[1:-1]} could not be found.", field="conductor")
    return found


_CONDUCTOR_ARGS = (Arg("limit", INTEGER), Arg("marker"), Arg("sort_key"), Arg("sort_dir"), FIELDS, DETAIL)
ROUTES = (
    Route("GET", "/v1/drivers", list_drivers, "List drivers", args=(Arg("type"), DETAIL, FIELDS), policy="baremetal:driver:get"),
    Route("GET", "/v1/drivers/{driver}", show_driver, "Show a driver", args=(FIELDS,), policy="baremetal:driver:get"),
    Route("GET", "/v1/drivers/{driver}/properties", properties, "A driver's properties", policy="baremetal:driver:get_properties"),
    Route("GET", "/v1/conductors", list_conductors, "List conductors", since=49, args=_CONDUCTOR_ARGS, policy="baremetal:conductor:get"),
    Route(
        "GET", "/v1/conductors/{conductor}", show_conductor, "Show a conductor", since=49, args=(FIELDS,), policy="baremetal:conductor:get"
    ),
)
