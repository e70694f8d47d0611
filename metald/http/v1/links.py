"""`local_link_connection`: which switch port a network card is plugged into."""

from __future__ import annotations

import re
from typing import Any

from metald.errors import Invalid, NotAcceptable
from metald.http import values
from metald.http.call import Call
from metald.http.schema import Schema, conform

_NETWORK_TYPE_SINCE = 64
_DATAPATH = re.compile(r"(0x)?[0-9a-f]{16}", re.IGNORECASE)
_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "port_id": {"type": "string"},
        "switch_id": {"type": "string"},
        "hostname": {"type": "string"},
        "switch_info": {"type": "string"},
        "network_type": {"type": "string", "enum": ["managed", "unmanaged"]},
        "vtep-logical-switch": {"type": "string"},
        "vtep-physical-switch": {"type": "string"},
    },
    "additionalProperties": False,
}
_COMPLETE = ({"port_id", "switch_id"}, {"port_id", "hostname"}, {"port_id", "vtep-logical-switch", "vtep-physical-switch"})


def connection(call: Call, given: dict[str, Any]) -> dict[str, Any]:
    """A checked and normalised connection.

    Raises:
        Invalid: keys are unknown or missing, or the switch id is neither a MAC address nor a datapath id.
        NotAcceptable: `network_type` is newer than the version.
    """
    name = "local_link_connection"
    found: dict[str, Any] = dict(conform(given, _SCHEMA, name))
    if "network_type" in found and call.version < _NETWORK_TYPE_SINCE:
        raise NotAcceptable("Request not acceptable.", remedy=f"network_type needs version 1.{_NETWORK_TYPE_SINCE}.", field=name)
    unmanaged = found.get("network_type") == "unmanaged"
    if not unmanaged and not any(keys <= set(found) for keys in _COMPLETE):
        raise Invalid(f"Schema error for {name}: port_id with switch_id or hostname is required, or network_type unmanaged", field=name)
    if "switch_id" in found:
        found["switch_id"] = _switch(found["switch_id"])
    return found


def _switch(text: str) -> str:
    try:
        return values.mac("switch_id", text)
    except Invalid:
        plain = text.replace(":", "").replace("-", "")
        if _DATAPATH.fullmatch(plain):
            return text.lower()
        raise Invalid(
            f"Expected a MAC address or OpenFlow datapath ID but received {values.bare(text)}.", field="local_link_connection"
        ) from None
