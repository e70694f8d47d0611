"""What a node's `network_data` may say: links, networks and services, in the form that cloud-init and Nova share.

An empty object means none. Keys that the form does not name are let through, as Ironic does.
"""

from __future__ import annotations

from collections.abc import Mapping

from metald.http.schema import Schema

_TEXT: Schema = {"type": "string"}
_MAC: Schema = {"type": "string", "pattern": "^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$"}
_LAST = ("254", "252", "248", "240", "224", "192", "128", "0")
_NETMASK: Schema = {
    "type": "string",
    "enum": [".".join((["255"] * full + [last] + ["0"] * 3)[:4]) for full in range(4) for last in _LAST],
}
_IPV4: Schema = {"type": "string", "format": "ipv4"}
_IPV6: Schema = {"type": "string", "format": "ipv6"}
_IPV6_HOST: Schema = {"type": "string", "format": "ipv6-host"}

_LINK: Mapping[str, Schema] = {
    "id": _TEXT,
    "mtu": {"anyOf": [{"type": "number", "minimum": 1, "maximum": 65535}, {"type": "null"}]},
    "vif_id": _TEXT,
}
_PLAIN: Schema = {
    "type": "object",
    "properties": {
        **_LINK,
        "type": {"type": "string", "enum": ["bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif", "phy"]},
        "ethernet_mac_address": _MAC,
    },
    "required": ["ethernet_mac_address", "id", "type"],
}
_BOND: Schema = {
    "type": "object",
    "properties": {
        **_LINK,
        "type": {"type": "string", "enum": ["bond"]},
        "ethernet_mac_address": _MAC,
        "bond_mode": {
            "type": "string",
            "enum": ["802.3ad", "balance-rr", "active-backup", "balance-xor", "broadcast", "balance-tlb", "balance-alb"],
        },
        "bond_links": {"type": "array", "items": _TEXT},
    },
    "required": ["ethernet_mac_address", "id", "type", "bond_mode", "bond_links"],
}
_VLAN: Schema = {
    "type": "object",
    "properties": {
        **_LINK,
        "type": {"type": "string", "enum": ["vlan"]},
        "vlan_mac_address": _MAC,
        "vlan_id": {"type": "integer"},
        "vlan_link": _TEXT,
    },
    "required": ["vlan_mac_address", "id", "type", "vlan_link", "vlan_id"],
}


def _service(address: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"address": address, "type": {"type": "string", "enum": ["dns"]}},
        "required": ["address", "type"],
    }


def _network(types: list[str], host: Schema, plain: Schema, gateway: Schema, netmask: Schema) -> Schema:
    route: Schema = {
        "type": "object",
        "properties": {
            "network": plain,
            "netmask": netmask,
            "gateway": gateway,
            "services": {"type": "array", "items": _service(_IPV4)},
        },
        "required": ["gateway", "netmask", "network"],
    }
    return {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "link": _TEXT,
            "network_id": _TEXT,
            "type": {"type": "string", "enum": types},
            "ip_address": host,
            "netmask": netmask,
            "routes": {"type": "array", "items": route},
        },
        "required": ["id", "link", "network_id", "type"],
    }


NETWORK_DATA: Schema = {
    "anyOf": [
        {"type": "null"},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {
            "type": "object",
            "properties": {
                "links": {"type": "array", "items": {"anyOf": [_PLAIN, _BOND, _VLAN]}},
                "networks": {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            _network(["ipv4", "ipv4_dhcp"], _IPV4, _IPV4, _IPV4, _NETMASK),
                            _network(["ipv6", "ipv6_dhcp", "ipv6_slaac"], _IPV6_HOST, _IPV6, _IPV6, _IPV6),
                        ]
                    },
                },
                "services": {"type": "array", "items": {"anyOf": [_service(_IPV4), _service(_IPV6_HOST)]}},
            },
            "required": ["links", "networks", "services"],
        },
    ]
}
