"""The hooks without a daemon: network cards, ports, properties, root disks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.errors import InspectionError
from metald.model import Node, Port
from metald.statemachine.inspection import hooks, nics
from metald.statemachine.inspection.hooks import Options
from metald.statemachine.inspection.subject import Subject

A, B, C = (f"52:54:00:00:00:0{n}" for n in "abc")
CARDS = [
    {"name": "eth0", "mac_address": A.upper(), "ipv4_address": "192.0.2.1"},
    {"name": "eth1", "mac_address": B, "ipv6_address": "fe80::1%eth1"},
    {"name": "eth2", "mac_address": C, "client_id": "ff:00"},
    {"name": "lo", "mac_address": "00:00:00:00:00:00", "ipv4_address": "127.0.0.1"},
    {"mac_address": "52:54:00:00:00:0d"},
    {"name": "ib0", "mac_address": "80:00:00:48:fe:80"[:8]},
]
DISKS = [{"name": "/dev/sda", "size": 10 << 30, "rotational": True}, {"name": "/dev/nvme0n1", "size": 100 << 30, "serial": "S1"}]


def subject(*ports: str, taken: tuple[str, ...] = (), told: dict[str, Any] | None = None, **inventory: Any) -> Subject:
    node = Node(driver="fake-hardware", properties=inventory.pop("properties", {}))
    rows = [nics.complete(Port(node_uuid=node.uuid, address=address)) for address in ports]
    return Subject(nics.complete(node), rows, {"interfaces": CARDS, **inventory}, told or {}, frozenset(taken))


def made(found: Subject, **options: Any) -> dict[str, bool]:
    hooks.run(found, Options(hooks=("validate-interfaces", "ports"), **options))
    return {port["address"]: port["pxe_enabled"] for port in found.ports if port["uuid"] not in found.removed}


BOOT = {"pxe_interface": f"01-{B.replace(':', '-')}"}


@pytest.mark.parametrize(
    ("boot", "add", "expected"),
    [
        (BOOT, "pxe", {B: True}),
        ({"pxe_interface": B.upper()}, "pxe", {B: True}),
        (BOOT, "all", {A: False, B: True, C: False}),
        (BOOT, "active", {A: False, B: True}),
        (BOOT, "disabled", {}),
        ({}, "pxe", {A: True, B: True, C: True}),
        (None, "all", {A: True, B: True, C: True}),
    ],
)
def test_which_cards_become_ports(boot: Any, add: str, expected: dict[str, bool]) -> None:
    assert made(subject(boot=boot), add_ports=add) == expected


def test_ports_stay_go_and_learn_what_booted() -> None:
    old = "52:54:00:00:00:99"
    assert made(subject(A, old, boot=BOOT), add_ports="pxe") == {A: False, old: False, B: True}
    assert made(subject(A, old, boot=BOOT), keep_ports="present") == {A: False, B: True}
    assert made(subject(A, old, boot=BOOT), keep_ports="added") == {B: True}
    assert made(subject(A, boot=BOOT), update_pxe_enabled=False) == {A: True, B: True}
    assert made(subject(A)) == {A: True, B: True, C: True}
    assert made(subject(taken=(B, C)), add_ports="all") == {A: True}


def test_a_client_id_is_kept() -> None:
    found = subject()
    made(found)
    assert [port["extra"] for port in found.ports] == [{}, {}, {"client-id": "ff:00"}]


def test_ports_need_the_cards_first() -> None:
    with pytest.raises(InspectionError, match="needs validate-interfaces"):
        hooks.run(subject(), Options(hooks=("ports",)))


def test_properties() -> None:
    found = subject(cpu={"architecture": "x86_64", "count": 4}, memory={"physical_mb": 2048})
    hooks.run(found, Options(hooks=("architecture", "cpus", "memory", "root-device")))
    assert found.node["properties"] == {"cpu_arch": "x86_64", "cpus": 4, "memory_mb": 2048, "local_gb": "0"}
    for name in ("architecture", "cpus", "memory"):
        for inventory in ({}, {"cpu": None, "memory": []}, {"cpu": {"architecture": {}, "count": True}, "memory": {"physical_mb": None}}):
            with pytest.raises(InspectionError, match="The inventory has no"):
                hooks.run(subject(**inventory), Options(hooks=(name,)))


def test_the_root_disk_is_what_the_hints_mean() -> None:
    found = subject(disks=DISKS, properties={"root_device": {"serial": "s1"}})
    hooks.run(found, Options(hooks=("root-device",)))
    assert found.plugin_data["root_disk"]["name"] == "/dev/nvme0n1"
    assert found.node["properties"]["local_gb"] == "99"
    for hints, disks in (({"serial": "x"}, DISKS), ({"colour": "red"}, DISKS), ({"serial": "s1"}, None), ({"serial": "s1"}, [1, {}])):
        with pytest.raises(InspectionError):
            hooks.run(subject(disks=disks, properties={"root_device": hints}), Options(hooks=("root-device",)))
    told = subject(told={"root_disk": {"size": 5 << 30}})
    hooks.run(told, Options(hooks=("root-device",)))
    assert told.node["properties"]["local_gb"] == "4"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "size", "architecture", "count", "pxe_interface"]), below, max_size=4)
    ),
    max_leaves=6,
)
CARD = st.fixed_dictionaries(
    {"mac_address": st.one_of(st.sampled_from([A, B, "00:00:00:00:00:00"]), st.text(max_size=5))},
    optional={
        name: st.one_of(st.sampled_from(["eth0", "192.0.2.1", "::1%lo"]), JSON)
        for name in ("name", "ipv4_address", "ipv6_address", "client_id")
    },
)


@settings(max_examples=300)
@given(st.lists(CARD, min_size=1, max_size=4), JSON, JSON, JSON, JSON, JSON, st.sampled_from(["all", "active", "pxe", "disabled"]))
def test_whatever_a_ramdisk_tells_is_used_or_refused(
    cards: Any, boot: Any, cpu: Any, memory: Any, disks: Any, error: Any, add: str
) -> None:
    found = subject(told={"error": error}, boot=boot, cpu=cpu, memory=memory, disks=disks, properties={"root_device": {"name": "/dev/sda"}})
    found.inventory["interfaces"] = cards
    try:
        hooks.run(found, Options(hooks=tuple(hooks.HOOKS), add_ports=add))
    except InspectionError:
        return
    addresses = [port["address"] for port in found.ports]
    assert len(addresses) == len(set(addresses))
    assert set(addresses) <= {A, B}
