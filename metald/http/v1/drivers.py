"""`/v1/drivers` and `/v1/conductors`: what hardware can be driven, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.base import HardwareType
from metald.errors import Invalid, MetaldError, NotAcceptable, NotFound
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
        raise Invalid("Can't fetch a subset of fields with 'detail' set", field="fields")
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


async def raid_properties(call: Call) -> dict[str, str]:
    """The properties that logical disks of a wanted RAID may have."""
    name = _find(call).name
    try:
        default = call.services.registry.default(name, "raid")
    except MetaldError:
        default = "no-raid"
    if default == "no-raid":
        raise NotFound(f"Driver {name} does not support raid (disabled or not implemented).", field="driver")
    return dict(LOGICAL_DISK)


async def methods(call: Call) -> dict[str, Any]:
    """The vendor methods of a hardware type: metald has none that belong to no node."""
    _find(call)
    return {}


async def passthru(call: Call) -> None:
    """Call a vendor method of a hardware type."""
    _find(call)
    raise Invalid(f"No handler for method {values.shown(call.path['method'])[1:-1]}", field="method")


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


LOGICAL_DISK: Mapping[str, str] = {
    "controller": (
        "Controller to use for this logical disk. "
        "If not specified, the driver will choose a suitable RAID controller on the bare metal node."
    ),
    "disk_type": (
        "The type of disk preferred. "
        "Valid values are 'hdd' and 'ssd'. If this is not specified, disk type will not be a selection criterion."
    ),
    "interface_type": (
        "The interface type of disk. Valid values are 'sata', 'scsi' and 'sas'. If this is not specified, it will not be a criterion."
    ),
    "is_root_volume": "Specifies whether this disk is a root volume. By default, this is False.",
    "number_of_physical_disks": (
        "Number of physical disks to use for this logical disk. By default, no of disks required is decided by the driver."
    ),
    "physical_disks": (
        "The physical disks to use for this logical disk. If not specified, the driver will choose suitable physical disks to use."
    ),
    "raid_level": ("RAID level for the logical disk. Valid values are 'JBOD', '0', '1', '2', '5', '6', '1+0', '5+0' and '6+0'. Required."),
    "share_physical_disks": (
        "Specifies whether other logical disks can share physical disks with this logical disk. By default, this is False."
    ),
    "size_gb": (
        "Size in GiB (Integer) for the logical disk. "
        "Use 'MAX' as size_gb if this logical disk is supposed to use the rest of the space. Required."
    ),
    "volume_name": "Name of the volume to be created. If this is not specified, it will be auto-generated.",
}
"""What a logical disk of a wanted RAID may say."""

_CONDUCTOR_ARGS = (Arg("limit", INTEGER), Arg("marker"), Arg("sort_key"), Arg("sort_dir"), FIELDS, DETAIL)
ROUTES = (
    Route("GET", "/v1/drivers", list_drivers, "List drivers", args=(Arg("type"), DETAIL, FIELDS), policy="baremetal:driver:get"),
    Route("GET", "/v1/drivers/{driver}", show_driver, "Show a driver", args=(FIELDS,), policy="baremetal:driver:get"),
    Route("GET", "/v1/drivers/{driver}/properties", properties, "A driver's properties", policy="baremetal:driver:get_properties"),
    Route(
        "GET",
        "/v1/drivers/{driver}/raid/logical_disk_properties",
        raid_properties,
        "Properties of logical disks",
        since=12,
        policy="baremetal:driver:get_raid_logical_disk_properties",
    ),
    Route(
        "GET",
        "/v1/drivers/{driver}/vendor_passthru/methods",
        methods,
        "A driver's vendor methods",
        policy="baremetal:driver:vendor_passthru",
    ),
    *(
        Route(
            verb,
            "/v1/drivers/{driver}/vendor_passthru/{method}",
            passthru,
            "Call a driver's vendor method",
            policy="baremetal:driver:vendor_passthru",
        )
        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ),
    Route("GET", "/v1/conductors", list_conductors, "List conductors", since=49, args=_CONDUCTOR_ARGS, policy="baremetal:conductor:get"),
    Route(
        "GET", "/v1/conductors/{conductor}", show_conductor, "Show a conductor", since=49, args=(FIELDS,), policy="baremetal:conductor:get"
    ),
)
