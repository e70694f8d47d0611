"""What `network_data` may say."""

from __future__ import annotations

from typing import Any

import pytest

from metald.errors import Invalid
from metald.http.schema import conform
from metald.http.v1.network_data import NETWORK_DATA

LINK = {"id": "eth0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01", "mtu": 1500}
BOND = {**LINK, "id": "bond0", "type": "bond", "bond_mode": "802.3ad", "bond_links": ["eth0"]}
VLAN = {"id": "v", "type": "vlan", "vlan_mac_address": "52-54-00-00-00-01", "vlan_id": 7, "vlan_link": "eth0"}
ROUTE = {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1", "services": [{"type": "dns", "address": "192.0.2.2"}]}
FOUR = {
    "id": "n",
    "link": "eth0",
    "network_id": "x",
    "type": "ipv4",
    "ip_address": "192.0.2.9",
    "netmask": "255.255.254.0",
    "routes": [ROUTE],
}
SIX = {
    "id": "n",
    "link": "eth0",
    "network_id": "x",
    "type": "ipv6",
    "ip_address": "2001:db8::9/64",
    "netmask": "ffff:ffff:ffff:ffff::",
    "routes": [{"network": "::", "netmask": "::", "gateway": "fe80::1%eth0"}],
}
WHOLE = {"links": [LINK, BOND, VLAN], "networks": [FOUR, SIX], "services": [{"type": "dns", "address": "2001:db8::1"}]}


@pytest.mark.parametrize("value", [None, {}, WHOLE, {"links": [], "networks": [], "services": [], "other": 1}])
def test_good_forms_come_through_as_they_are(value: Any) -> None:
    assert conform(value, NETWORK_DATA, "network_data") == value


@pytest.mark.parametrize(
    ("part", "index", "changes"),
    [
        ("links", 0, {"type": "carrier pigeon"}),
        ("links", 0, {"ethernet_mac_address": "52:54:00:00:00"}),
        ("links", 0, {"mtu": 0}),
        ("links", 0, {"mtu": 65536}),
        ("links", 0, {"mtu": "1500"}),
        ("links", 0, {"id": None}),
        ("links", 1, {"bond_mode": "fast"}),
        ("links", 1, {"bond_links": "eth0"}),
        ("links", 2, {"vlan_id": "7"}),
        ("networks", 0, {"type": "ipv5"}),
        ("networks", 0, {"ip_address": "192.0.2.256"}),
        ("networks", 0, {"netmask": "255.0.255.0"}),
        ("networks", 0, {"routes": [{"network": "0.0.0.0"}]}),
        ("networks", 0, {"routes": [{**ROUTE, "gateway": "::1"}]}),
        ("networks", 1, {"ip_address": "2001:db8::9/129"}),
        ("networks", 1, {"ip_address": "192.0.2.9"}),
        ("networks", 1, {"netmask": 64}),
        ("services", 0, {"type": "ntp"}),
        ("services", 0, {"address": "here"}),
    ],
)
def test_a_wrong_part_is_refused_with_its_place(part: str, index: int, changes: dict[str, Any]) -> None:
    wrong: dict[str, Any] = {key: [dict(item) for item in items] for key, items in WHOLE.items()}
    wrong[part][index] |= changes
    with pytest.raises(Invalid) as refused:
        conform(wrong, NETWORK_DATA, "network_data", "network_data")
    assert str(refused.value.field).startswith(f"network_data/{part}/{index}/"), refused.value.field


@pytest.mark.parametrize("value", [{"links": []}, {"links": [], "networks": []}, [], "x", {"links": {}, "networks": [], "services": []}])
def test_what_is_not_whole_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        conform(value, NETWORK_DATA, "network_data")
