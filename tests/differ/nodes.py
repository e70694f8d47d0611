"""Nodes: roots, creation, lists, reads, patches."""

from __future__ import annotations

import uuid
from typing import Any

from tests.differ.asking import NEWEST, Made, Row


def roots(made: Made) -> list[Row]:
    """The roots, and a node to try the rest on."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("GET", path, ver, None)
        for path in ("/", "/v1", "/v1/", "/v2", "/nodes", "/v1/x")
        for ver in (None, "1.1", "latest", "1.115", "2.0", "1.999", "x")
    ]
    rows += [
        ("POST", "/v1", NEWEST, {}),
        ("DELETE", "/v1/nodes", NEWEST, None),
        ("PUT", "/v1/nodes", NEWEST, {}),
        ("HEAD", "/v1/nodes", NEWEST, None),
    ]
    rows += [
        (
            "POST",
            "/v1/nodes",
            NEWEST,
            {"driver": "fake-hardware", "uuid": u, "name": "differ", "extra": {"a": {"b": 1}}, "resource_class": "rc"},
        )
    ]
    for ver in range(1, 116, 3):
        rows += [("GET", n, f"1.{ver}", None), ("GET", "/v1/nodes/differ", f"1.{ver}", None)]
    rows += [("GET", n, "1.115", None)]
    return rows


def creation(_made: Made) -> list[Row]:
    """Nodes that are refused, or are not."""
    rows: list[Row] = []
    for key, value in {
        "name": "x y",
        "uuid": "nope",
        "maintenance": "maybe",
        "extra": [],
        "driver_info": "x",
        "properties": 1,
        "instance_uuid": "no",
        "chassis_uuid": str(uuid.uuid4()),
        "description": "x" * 5000,
        "resource_class": "y" * 90,
        "conductor_group": "nogroup",
        "owner": 3,
        "power_state": "power on",
        "provision_state": "active",
        "protected": True,
        "traits": [],
        "network_data": {"a": 1},
        "instance_name": "",
        "boot_interface": "nope",
        "parent_node": "nobody",
        "retired_reason": "x",
        "links": [],
        "driver": None,
        "automated_clean": "perhaps",
    }.items():
        rows.append(("POST", "/v1/nodes", NEWEST, {"driver": "fake-hardware", key: value}))
    for since, key, value in (
        (5, "name", "newname"),
        (21, "resource_class", "x"),
        (46, "conductor_group", ""),
        (47, "automated_clean", True),
        (50, "owner", None),
        (51, "description", "d"),
        (31, "boot_interface", "fake"),
        (20, "network_interface", "noop"),
        (104, "instance_name", "z"),
        (82, "shard", "s"),
    ):
        rows.append(("POST", "/v1/nodes", f"1.{since - 1}", {"driver": "nope", key: value}))
    return rows


def lists(made: Made) -> list[Row]:
    """Lists of nodes."""
    u = made.node
    rows: list[Row] = []
    lists = [
        "",
        "?fields=uuid,name",
        "?fields=bogus",
        "?fields=UUID",
        "?detail=true",
        "?detail=maybe",
        "?detail=true&fields=uuid",
        "?limit=1",
        "?limit=0",
        "?limit=-1",
        "?limit=x",
        "?limit=100000",
        "?marker=nope",
        f"?marker={uuid.uuid4()}",
        f"?marker={u}",
        "?sort_key=name",
        "?sort_key=extra",
        "?sort_key=bogus",
        "?sort_key=uuid&sort_dir=desc",
        "?sort_dir=up",
        "?maintenance=true",
        "?maintenance=x",
        "?associated=false",
        "?associated=1",
        "?provision_state=enroll",
        "?provision_state=bogus",
        "?driver=fake-hardware",
        "?driver=x",
        "?resource_class=rc",
        "?fault=power%20failure",
        "?fault=x",
        "?conductor_group=",
        "?conductor=x",
        "?owner=x",
        "?lessee=x",
        "?project=x",
        "?shard=a,b",
        "?sharded=false",
        "?retired=false",
        "?include_children=true",
        "?parent_node=differ",
        "?description_contains=x",
        "?instance_name=x",
        f"?instance_uuid={uuid.uuid4()}",
        f"?chassis_uuid={uuid.uuid4()}",
        "?bogus=1",
        "?fields=uuid&limit=1",
        "?fields=uuid%2Cname&sort_key=created_at&limit=1",
        "?instance_uuid=x",
        "?fields=links",
        "?fields=ports",
        "?sort_key=power_state",
        "?sort_key=traits",
        "?sort_key=chassis_uuid",
        "?sort_key=conductor",
        "?sort_key=driver_info",
    ]
    for query in lists:
        rows += [("GET", f"/v1/nodes{query}", ver, None) for ver in (NEWEST, "1.1", "1.8", "1.43")]
    rows += [("GET", f"/v1/nodes/detail{q}", NEWEST, None) for q in ("", "?fields=uuid", "?limit=1", "?detail=true")]
    return rows


def reads(made: Made) -> list[Row]:
    """What belongs to a node."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("GET", path, NEWEST, None)
        for path in (
            f"{n}?fields=uuid,extra",
            f"{n}?fields=nope",
            f"{n}?detail=true",
            f"{n}/states",
            f"{n}/validate",
            f"/v1/nodes/validate?node={u}",
            "/v1/nodes/validate",
            "/v1/nodes/nope",
            "/v1/nodes/a%20b",
            f"/v1/nodes/{uuid.uuid4()}",
            f"{n}.json",
            f"{n}/management/boot_device",
            f"{n}/management/boot_device/supported",
            f"{n}/traits",
            f"{n}/vifs",
            f"{n}/ports",
            f"{n}/ports/detail",
            f"{n}/bios",
            f"{n}/firmware",
            f"{n}/history",
            f"{n}/inventory",
            f"{n}/children",
            f"{n}/vmedia",
            f"{n}/allocation",
            f"{n}/volume",
            f"{n}/volume/connectors",
            f"{n}/volume/targets",
            f"{n}/portgroups",
            f"{n}/portgroups/detail",
            f"{n}/vendor_passthru/methods",
            f"{n}/states/console",
            f"{n}/management/indicators",
            f"{n}/management",
            f"{n}/maintenance",
            f"{n}/bogus",
        )
    ]
    rows += [
        ("GET", f"{n}.json", "1.90", None),
        ("GET", f"{n}/states", "1.1", None),
        ("GET", f"{n}/states", "1.12", None),
        ("GET", f"{n}/traits", "1.36", None),
        ("GET", f"{n}/vifs", "1.27", None),
        ("GET", f"{n}/portgroups", "1.23", None),
    ]
    return rows


def patches(made: Made) -> list[Row]:
    """Patches of a node."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    patches: list[Any] = [
        [],
        {},
        "x",
        [{}],
        [{"op": "add"}],
        [{"op": "test", "path": "/extra/a", "value": 1}],
        [{"op": "add", "path": "/extra/new", "value": 1}],
        [{"op": "replace", "path": "/extra/none", "value": 1}],
        [{"op": "remove", "path": "/extra/none"}],
        [{"op": "remove", "path": "/extra"}],
        [{"op": "remove", "path": "/driver"}],
        [{"op": "add", "path": "/uuid", "value": u}],
        [{"op": "replace", "path": "/provision_state", "value": "active"}],
        [{"op": "add", "path": "/foo", "value": 1}],
        [{"op": "add", "path": "extra", "value": 1}],
        [{"op": "add", "path": "/", "value": 1}],
        [{"op": "replace", "path": "/maintenance", "value": "true"}],
        [{"op": "remove", "path": "/maintenance"}],
        [{"op": "replace", "path": "/protected", "value": True}],
        [{"op": "replace", "path": "/protected_reason", "value": "x"}],
        [{"op": "replace", "path": "/retired", "value": True}, {"op": "add", "path": "/retired_reason", "value": "old"}],
        [{"op": "replace", "path": "/retired", "value": False}],
        [{"op": "replace", "path": "/driver", "value": "nope"}],
        [{"op": "replace", "path": "/deploy_interface", "value": "nope"}],
        [{"op": "remove", "path": "/deploy_interface"}],
        [{"op": "replace", "path": "/name", "value": "a b"}],
        [{"op": "replace", "path": "/name", "value": "differ"}],
        [{"op": "add", "path": "/instance_info/a", "value": "b"}, {"op": "add", "path": "/instance_info/c", "value": {"d": []}}],
        [{"op": "add", "path": "/instance_info/c/d/-", "value": 1}],
        [{"op": "add", "path": "/instance_info/c/d/0", "value": 2}],
        [{"op": "remove", "path": "/instance_info/c/d/5"}],
        [{"op": "remove", "path": "/instance_info"}],
        [{"op": "add", "path": "/traits", "value": []}],
        [{"op": "add", "path": "/extra/x", "value": 1, "junk": 1}],
        [{"op": "add", "path": "/extra", "value": "text"}],
        [{"op": "replace", "path": "/chassis_uuid", "value": str(uuid.uuid4())}],
        [{"op": "replace", "path": "/resource_class", "value": "x" * 90}],
        [{"op": "replace", "path": "/automated_clean", "value": None}],
        [{"op": "replace", "path": "/maintenance_reason", "value": "x"}],
        [{"op": "add", "path": "/properties/capabilities", "value": "boot_mode:uefi"}],
        [{"op": "replace", "path": "/conductor_group", "value": "X"}],
        [{"op": "replace", "path": "/network_data", "value": {"x": 1}}],
        [{"op": "replace", "path": "/parent_node", "value": u}],
        [{"op": "replace", "path": "/instance_uuid", "value": str(uuid.uuid4())}],
        [{"op": "replace", "path": "/instance_uuid", "value": str(uuid.uuid4())}],
        [{"op": "remove", "path": "/instance_uuid"}],
    ]
    rows += [("PATCH", n, NEWEST, body) for body in patches]
    rows += [
        ("PATCH", f"{n}?reset_interfaces=true", NEWEST, []),
        ("PATCH", f"{n}?reset_interfaces=true", "1.44", []),
        ("PATCH", n, "1.4", [{"op": "add", "path": "/name", "value": "x"}]),
    ]
    return rows
