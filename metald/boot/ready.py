"""What a ramdisk says of itself when its sshd listens: read, checked, bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl

from metald.boot.render import parse_mac
from metald.errors import Invalid

_MAX_MACS = 64
_MAX_FIELDS = 32


def read_fields(content_type: str, body: bytes) -> Mapping[str, Any]:
    """The fields of a body: a JSON object, else a form. An empty body has none.

    Raises:
        Invalid: it cannot be read.
    """
    try:
        if content_type == "application/json":
            fields = json.loads(body or b"{}")
        else:
            fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except (ValueError, RecursionError):
        raise Invalid("The body is neither a form nor JSON.") from None
    if not isinstance(fields, dict):
        raise Invalid("The body must be a JSON object.")
    return fields


def ready_facts(given: Mapping[str, Any], peer: str) -> dict[str, Any]:
    """The facts for `BootDirectory.ramdisk_called`.

    Args:
        given: the fields of the form or JSON object: `address`, `port`, `uptime`, `boot_mode`, `macs` (a list, or a
            text with commas or blanks between); all may be missing, others are passed over.
        peer: the address the call came from, which counts when it names none.

    Raises:
        Invalid: names the field that is wrong.
    """
    facts: dict[str, Any] = {"address": _address(given.get("address") or peer), "port": _port(given.get("port", 22))}
    if given.get("uptime") not in (None, ""):
        facts["uptime"] = _seconds(given["uptime"])
    mode = given.get("boot_mode")
    if mode:
        if mode not in ("bios", "uefi"):
            raise Invalid("boot_mode must be bios or uefi.", field="boot_mode")
        facts["boot_mode"] = mode
    macs = given.get("macs")
    if macs:
        facts["macs"] = _macs(macs)
    return facts


def _address(value: object) -> str:
    try:
        parsed = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        parsed = None
    if parsed is None or parsed.is_multicast or parsed.is_unspecified:
        raise Invalid("address must be the ramdisk's IP address.", field="address")
    return str(parsed)


def _port(value: object) -> int:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise Invalid("port must be a number from 1 to 65535.", field="port")
    return int(text)


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise Invalid("uptime must be a number of seconds.", field="uptime")
    return seconds


def _macs(value: object) -> list[str]:
    parts: Sequence[object] = value.replace(",", " ").split() if isinstance(value, str) else value if isinstance(value, list) else [None]
    macs = [parse_mac(part) if isinstance(part, str) else None for part in parts[: _MAX_MACS + 1]]
    if len(macs) > _MAX_MACS or None in macs:
        raise Invalid(f"macs must be up to {_MAX_MACS} MAC addresses.", field="macs")
    return [mac for mac in macs if mac]
