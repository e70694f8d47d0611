"""What is asked of a node: maintenance, power, verbs, traits, hardware."""

from __future__ import annotations

import uuid
from typing import Any

from tests.differ.asking import NEWEST, Made, Row


def maintenance_and_power(made: Made) -> list[Row]:
    """Maintenance and power."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("PUT", f"{n}/maintenance", NEWEST, {"reason": "r"}),
        ("PUT", f"{n}/maintenance", NEWEST, {"x": "r"}),
        ("PUT", f"{n}/maintenance", NEWEST, None),
        ("DELETE", f"{n}/maintenance", NEWEST, None),
        ("DELETE", "/v1/nodes/nope/maintenance", NEWEST, None),
    ]
    for body in (
        {},
        {"target": "x"},
        {"target": "soft power off", "timeout": 0},
        {"target": "power on", "timeout": "x"},
        {"target": 3},
        {"target": "power on", "junk": 1},
    ):
        rows.append(("PUT", f"{n}/states/power", NEWEST, body))
    rows.append(("PUT", f"{n}/states/power", "1.26", {"target": "soft power off"}))
    return rows


def provision(made: Made) -> list[Row]:
    """Verbs that are refused, and the one that is not."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    bodies: tuple[Any, ...] = (
        {},
        {"target": "bogus"},
        {"target": "active"},
        {"target": "provide"},
        {"target": "manage", "configdrive": "x"},
        {"target": "manage", "clean_steps": []},
        {"target": "manage", "rescue_password": "x"},
        {"target": "manage", "junk": 1},
        {"target": "verify"},
        {"target": "manage", "disable_ramdisk": True},
        {"target": "manage", "clean_steps": [{"interface": "deploy", "step": "x"}]},
        {"target": "manage", "deploy_steps": [1]},
    )
    rows += [("PUT", f"{n}/states/provision", NEWEST, body) for body in bodies]
    rows += [
        ("PUT", f"{n}/states/provision", "1.3", {"target": "manage"}),
        ("PUT", f"{n}/states/provision", "1.86", {"target": "service"}),
        ("PUT", f"{n}/states/provision", "1.84", {"target": "unhold"}),
        ("PUT", f"{n}/states/provision", "1.72", {"target": "deploy"}),
    ]
    return rows


def traits(made: Made) -> list[Row]:
    """Traits."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("PUT", f"{n}/traits", NEWEST, b)
        for b in ({"traits": ["CUSTOM_A"]}, {"traits": ["nope"]}, {"traits": 3}, {}, {"x": []}, {"traits": []})
    ]
    rows += [
        ("PUT", f"{n}/traits/CUSTOM_B", NEWEST, None),
        ("PUT", f"{n}/traits/custom", NEWEST, None),
        ("PUT", f"{n}/traits/CUSTOM_C", NEWEST, {"traits": []}),
        ("DELETE", f"{n}/traits/CUSTOM_B", NEWEST, None),
        ("DELETE", f"{n}/traits/CUSTOM_Z", NEWEST, None),
        ("DELETE", f"{n}/traits", NEWEST, None),
        ("PUT", f"{n}/traits", "1.36", {"traits": []}),
    ]
    return rows


def hardware(made: Made) -> list[Row]:
    """Boot device, RAID and VIFs."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("PUT", f"{n}/management/boot_device", NEWEST, b)
        for b in (
            {"boot_device": "pxe"},
            {"boot_device": "bogus"},
            {"boot_device": "disk"},
            {},
            {"boot_device": "pxe", "persistent": "maybe"},
            {"boot_device": "pxe", "persistent": True},
        )
    ]
    rows += [
        ("PUT", f"{n}/management/inject_nmi", NEWEST, {}),
        ("PUT", f"{n}/management/inject_nmi", "1.28", {}),
        ("PUT", f"{n}/states/raid", NEWEST, {}),
        ("PUT", f"{n}/states/raid", NEWEST, {"logical_disks": [{"raid_level": "1", "size_gb": "MAX"}]}),
        ("PUT", f"{n}/states/raid", NEWEST, {"logical_disks": [{"raid_level": "9", "size_gb": 1}]}),
        ("PUT", f"{n}/states/raid", "1.11", {}),
    ]
    rows += [
        ("POST", f"{n}/vifs", NEWEST, b)
        for b in ({"id": str(uuid.uuid4())}, {"id": "a b"}, {}, {"id": "x", "port_uuid": u, "portgroup_uuid": u})
    ] + [("DELETE", f"{n}/vifs/{uuid.uuid4()}", NEWEST, None)]
    return rows
