"""What a switch says of itself over LLDP (IEEE 802.1AB), as ramdisks hand it in: pairs of a type and the value in hex.

Pure. Values that are not as the standard has them are left out: whatever is on the wire may be anything. The names are those
that Ironic gives them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

CHASSIS_ID, PORT_ID, PORT_DESCRIPTION, SYSTEM_NAME, SYSTEM_DESCRIPTION, CAPABILITIES, MANAGEMENT, ORGANISATION = 1, 2, 4, 5, 6, 7, 8, 127
_MAC_CHASSIS, _MAC_PORT, _ADDRESS_CHASSIS, _ADDRESS_PORT = 4, 3, 5, 4
_TEXTS = {
    PORT_DESCRIPTION: "switch_port_description",
    SYSTEM_NAME: "switch_system_name",
    SYSTEM_DESCRIPTION: "switch_system_description",
}
_ABLE = ("Other", "Repeater", "Bridge", "WLAN", "Router", "Telephone", "DOCSIS cable device", "Station only", "C-Vlan", "S-Vlan", "TPMR")
_LARGEST = 511
"""Bytes of a value: its length has nine bits."""
_CARDS = 64
"""Network cards that are looked at."""


def values(pairs: Any) -> Iterator[tuple[int, bytes]]:
    """The pairs that can be read."""
    for pair in pairs if isinstance(pairs, list) else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[1], str):
            continue
        try:
            kind, value = int(pair[0]), bytes.fromhex(pair[1])
        except (TypeError, ValueError, OverflowError):
            continue
        if len(value) <= _LARGEST:
            yield kind, value


def raw(inventory: dict[str, Any], plugin_data: dict[str, Any]) -> dict[str, Any]:
    """The pairs of each network card by its name, wherever the ramdisk put them."""
    apart = plugin_data.get("lldp_raw")
    apart = apart if isinstance(apart, dict) else {}
    cards = [card for card in (inventory.get("interfaces") or ())[:_CARDS] if isinstance(card.get("name"), str)]
    return {card["name"]: apart.get(card["name"]) or card.get("lldp") for card in cards}


def chassis(value: bytes) -> str | None:
    """The switch: its MAC address, IP address or name."""
    return _identity(value, _MAC_CHASSIS, _ADDRESS_CHASSIS)


def chassis_mac(value: bytes) -> str | None:
    """The switch's MAC address, when it calls itself by one."""
    return chassis(value) if value[:1] == bytes([_MAC_CHASSIS]) else None


def port(value: bytes) -> str | None:
    """The switch's port: its name, MAC address or IP address."""
    return _identity(value, _MAC_PORT, _ADDRESS_PORT)


def _identity(value: bytes, mac: int, address: int) -> str | None:
    subtype, rest = value[:1], value[1:]
    if not rest:
        return None
    if subtype == bytes([mac]):
        return rest.hex(":") if len(rest) == 6 else None
    return _address(rest) if subtype == bytes([address]) else text(rest)


def _address(value: bytes) -> str | None:
    """An address with its family in front (IANA: 1 is IPv4, 2 is IPv6)."""
    if (value[0], len(value)) not in ((1, 5), (2, 17)):
        return None
    return str(ipaddress.ip_address(value[1:]))


def text(value: bytes) -> str | None:
    """Words for people; None for what are none."""
    try:
        found = value.decode().strip("\x00 ")
    except UnicodeDecodeError:
        return None
    return found if found.isprintable() and found else None


def parsed(pairs: Any) -> dict[str, Any]:
    """Everything that the pairs of one card tell, by Ironic's names. Of what comes twice the first counts."""
    found: dict[str, Any] = {}
    for kind, value in values(pairs):
        for name, told in _told(kind, value):
            if isinstance(told, list) and name in ("switch_mgmt_addresses", "switch_port_vlans"):
                found.setdefault(name, []).extend(told)
            elif told is not None:
                found.setdefault(name, told)
    return found


def _told(kind: int, value: bytes) -> Iterator[tuple[str, Any]]:
    if kind == CHASSIS_ID:
        yield "switch_chassis_id", chassis(value)
    elif kind == PORT_ID:
        yield "switch_port_id", port(value)
    elif kind in _TEXTS:
        yield _TEXTS[kind], text(value)
    elif kind == CAPABILITIES and len(value) == 4:
        yield "switch_capabilities_support", _able(value[:2])
        yield "switch_capabilities_enabled", _able(value[2:])
    elif kind == MANAGEMENT and len(value) > 1 and (address := _address(value[1 : 1 + value[0]] or b"\0")):
        yield "switch_mgmt_addresses", [address]
    elif kind == ORGANISATION and len(value) > 4:
        yield from _organisation(value[:3], value[3], value[4:])


def _able(bits: bytes) -> list[str]:
    number = int.from_bytes(bits, "big")
    return [name for place, name in enumerate(_ABLE) if place and number >> place & 1]


def _organisation(who: bytes, subtype: int, value: bytes) -> Iterator[tuple[str, Any]]:
    """IEEE 802.1 (annex D of 802.1Q) and 802.3 (clause 79)."""
    number = int.from_bytes(value[:2], "big")
    match who.hex(), subtype:
        case "0080c2", 1 if len(value) == 2:
            yield "switch_port_untagged_vlan_id", number
        case "0080c2", 3 if len(value) > 3:
            yield "switch_port_vlans", [{"id": number, "name": text(value[3 : 3 + value[2]]) or ""}]
        case "0080c2", 6 if len(value) == 2:
            yield "switch_port_management_vlan_id", number
        case ("0080c2", 7) | ("00120f", 3) if len(value) == 5:
            yield "switch_port_link_aggregation_support", bool(value[0] & 1)
            yield "switch_port_link_aggregation_enabled", bool(value[0] & 2)
            yield "switch_port_link_aggregation_id", int.from_bytes(value[1:], "big")
        case "00120f", 1 if len(value) == 5:
            yield "switch_port_autonegotiation_support", bool(value[0] & 1)
            yield "switch_port_autonegotiation_enabled", bool(value[0] & 2)
        case "00120f", 4 if len(value) == 2:
            yield "switch_port_mtu", number
