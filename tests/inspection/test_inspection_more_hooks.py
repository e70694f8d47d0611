"""The hooks beyond what deployments need: capabilities, PCI devices, LLDP, physical networks, RAID devices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.config import Inspection
from metald.model import Node, Port
from metald.statemachine.inspection import hooks, lldp, more_hooks, nics
from metald.statemachine.inspection.hooks import Options
from metald.statemachine.inspection.subject import Subject

MAC = "52:54:00:00:00:0a"
CARD = {"name": "eth0", "mac_address": MAC, "ipv4_address": "192.0.2.1"}
SWITCH = [[1, "04112233aabbcc"], [2, "0545746831"], [5, "737731"], [7, "00140004"], [8, "0501c0000201020000000100"]]
DOT1, DOT3 = [[127, "0080c2010064"], [127, "0080c203006403766d73"]], [[127, "00120f042328"], [127, "00120f030300000007"]]


def run(name: str, inventory: dict[str, Any] | None = None, told: dict[str, Any] | None = None, **more: Any) -> Subject:
    properties, before = more.pop("properties", {}), more.pop("before", ())
    node = Node(driver="fake-hardware", properties=properties)
    port = nics.complete(Port(node_uuid=node.uuid, address=MAC, local_link_connection=more.pop("link", {})))
    made = Subject(nics.complete(node), [port], {"interfaces": [CARD], **(inventory or {})}, told or {}, serials_before=before)
    hooks.run(made, Options(hooks=(name,), **more))
    return made


@pytest.mark.parametrize(
    ("name", "inventory", "more", "expected"),
    [
        ("boot-mode", {"boot": {"current_boot_mode": "uefi"}}, {}, "a:b,boot_mode:uefi"),
        ("boot-mode", {"boot": {"current_boot_mode": "coreboot"}}, {}, "a:b"),
        ("boot-mode", {}, {}, "a:b"),
        ("cpu-capabilities", {"cpu": {"flags": ["vmx", "fpu"]}}, {"cpu_capabilities": ["vmx:cpu_vt", "aes:cpu_aes"]}, "a:b,cpu_vt:true"),
        ("pci-devices", {"pci_devices": [{"vendor_id": "10DE", "product_id": "1"}] * 2}, {"pci_device_alias": ["10de:1 gpu"]}, "a:b,gpu:2"),
    ],
)
def test_capabilities(name: str, inventory: dict[str, Any], more: dict[str, Any], expected: str) -> None:
    assert run(name, inventory, properties={"capabilities": "a:b"}, **more).node["properties"]["capabilities"] == expected


def test_accelerators() -> None:
    address = "0000:01:00.0"
    devices = [{"vendor_id": "10de", "product_id": "1eb8", "bus": address}, {"vendor_id": "8086", "product_id": "1", "bus": "x"}]
    found = run("accelerators", told={"pci_devices": devices}, accelerators=Inspection().accelerators).node["properties"]["accelerators"]
    assert [(one["type"], one["device_info"], one["pci_address"]) for one in found] == [
        ("GPU", "NVIDIA Corporation Tesla T4", "0000:01:00.0")
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_what_a_switch_says(apart: bool) -> None:
    pairs = [*SWITCH, *DOT1, *DOT3]
    inventory = {} if apart else {"interfaces": [{**CARD, "lldp": pairs}]}
    told = {"lldp_raw": {"eth0": pairs}} if apart else {}
    assert run("parse-lldp", inventory, told).plugin_data["parsed_lldp"]["eth0"] == {
        "switch_chassis_id": "11:22:33:aa:bb:cc",
        "switch_port_id": "Eth1",
        "switch_system_name": "sw1",
        "switch_capabilities_support": ["Bridge", "Router"],
        "switch_capabilities_enabled": ["Bridge"],
        "switch_mgmt_addresses": ["192.0.2.1"],
        "switch_port_untagged_vlan_id": 100,
        "switch_port_vlans": [{"id": 100, "name": "vms"}],
        "switch_port_mtu": 9000,
        "switch_port_link_aggregation_support": True,
        "switch_port_link_aggregation_enabled": True,
        "switch_port_link_aggregation_id": 7,
    }
    link = run("local-link-connection", inventory, told, link={"port_id": "kept"}).ports[0]["local_link_connection"]
    assert link == {"port_id": "kept", "switch_id": "11:22:33:aa:bb:cc", "switch_info": "sw1"}


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 4, 5, 6, 7, 8, 127, "x"]), st.binary(max_size=40).map(bytes.hex) | st.text(max_size=4)).map(list)
    )
)
def test_whatever_is_on_the_wire_is_read_or_left_out(pairs: Any) -> None:
    assert all(value is not None for value in lldp.parsed(pairs).values())


def test_a_card_tells_the_physical_network() -> None:
    networks = ["198.51.100.0/24:other", "192.0.2.0/24:lab"]
    assert run("physical-network", physical_network_cidr_map=networks).ports[0]["physical_network"] == "lab"
    assert run("physical-network").ports[0]["physical_network"] is None


def test_the_one_new_disk_is_the_root_device() -> None:
    disks = {"disks": [{"serial": "A"}, {"serial": "B"}, {"name": "/dev/sdc"}, 7]}
    assert run("raid-device", disks, before=("A",)).node["properties"] == {"root_device": {"serial": "B"}}
    assert run("raid-device", disks, before=("C",)).node["properties"] == {}
    assert run("raid-device", disks).node["properties"] == {}
    known = {"root_device": {"name": "/dev/sda"}}
    assert run("raid-device", disks, before=("A",), properties=known).node["properties"] == known


def test_records_of_hardware_detect_become_an_object() -> None:
    data = [["cpu", "physical", "number", "2"], ["short"], ["disk", "sda", "model", "X"]]
    assert run("extra-hardware", told={"data": data}).plugin_data == {
        "extra": {"cpu": {"physical": {"number": 2}}, "disk": {"sda": {"model": "X"}}}
    }
    assert run("extra-hardware", told={"data": data}, extra_hardware_strict=True).plugin_data == {}
    assert run("extra-hardware", told={"data": "?"}).plugin_data == {"data": "?"}


@pytest.mark.parametrize(
    "settings",
    [
        {"physical_network_cidr_map": ["lab"]},
        {"pci_device_alias": ["10de gpu"]},
        {"accelerators": ["10de:1"]},
        {"cpu_capabilities": ["vmx"]},
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any]) -> None:
    assert more_hooks.wrong(Inspection(**settings)).startswith(f"inspection.{next(iter(settings))}: ")
    assert more_hooks.wrong(Inspection()) == ""
