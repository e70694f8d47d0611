"""`/v1/nodes/{node}/vmedia`: images in a machine's virtual drives."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from metald.errors import Invalid
from metald.http.call import Call
from metald.http.route import WORDS, Arg, Route
from metald.http.schema import Schema
from metald.http.v1 import lookups

_DEVICES = ("disk", "cdrom", "floppy")
_SCHEMES = ("http", "https", "nfs", "cifs", "smb")
ATTACH: Schema = {
    "type": "object",
    "properties": {
        "device_type": {"type": "string", "enum": list(_DEVICES)},
        "image_url": {"type": "string", "maxLength": 4096},
        "image_download_source": {"type": "string", "enum": ["http", "local", "swift"]},
    },
    "required": ["device_type", "image_url"],
    "additionalProperties": False,
}


async def show(call: Call) -> Any:
    """Ask for what is in the virtual drives."""
    return await call.services.hardware.virtual_media(lookups.node(call).uuid)


async def attach(call: Call) -> None:
    """Put an image into a virtual drive."""
    node = lookups.node(call)
    url = call.body["image_url"]
    scheme = _scheme(url)
    if scheme not in _SCHEMES:
        raise Invalid(f"Unsupported or missing URL scheme: {scheme[:80]}", remedy=f"Use one of {', '.join(_SCHEMES)}.", field="image_url")
    source = call.body.get("image_download_source", "local")
    await call.services.hardware.attach_virtual_media(node.uuid, call.body["device_type"], url, source, call.caller)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


async def detach(call: Call) -> None:
    """Empty virtual drives."""
    node = lookups.node(call)
    devices = call.args.get("device_types") or []
    wrong = [device for device in devices if device not in _DEVICES]
    if wrong:
        raise Invalid(f"Invalid device type(s) {', '.join(wrong)[:80]} (valid are {', '.join(_DEVICES)})", field="device_types")
    await call.services.hardware.detach_virtual_media(node.uuid, devices, call.caller)


_PATH = "/v1/nodes/{node}/vmedia"
ROUTES = (
    Route("GET", _PATH, show, "Show virtual media", since=93, policy="baremetal:node:vmedia:get"),
    Route(
        "POST",
        _PATH,
        attach,
        "Attach virtual media",
        since=89,
        body=ATTACH,
        body_name="vmedia",
        status=204,
        policy="baremetal:node:vmedia:attach",
    ),
    Route(
        "DELETE",
        _PATH,
        detach,
        "Detach virtual media",
        since=89,
        args=(Arg("device_types", WORDS),),
        status=204,
        policy="baremetal:node:vmedia:detach",
    ),
)
