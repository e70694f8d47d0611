"""Ports, portgroups and chassis."""

from __future__ import annotations

import uuid

from tests.differ.asking import MAC, NEWEST, Made, Row


def ports(made: Made) -> list[Row]:
    """Ports that are refused, and the one that is not."""
    u = made.node
    p = made.port
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/ports", NEWEST, b)
        for b in (
            {"uuid": p, "node_uuid": u, "address": MAC.upper()},
            {"node_uuid": u, "address": MAC},
            {"node_uuid": str(uuid.uuid4()), "address": "52:54:00:ff:00:02"},
            {"address": MAC},
            {"node_uuid": u},
            {"node_uuid": u, "address": "x"},
            {"node_ident": "differ", "node_uuid": u, "address": MAC},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "junk": 1},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "local_link_connection": {"port_id": "x"}},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "is_smartnic": True},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "physical_network": ""},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "portgroup_uuid": str(uuid.uuid4())},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "name": "a b"},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "local_link_connection": {"port_id": "x", "switch_id": "nope"}},
        )
    ]
    return rows


def port_reads(made: Made) -> list[Row]:
    """Ports by version and filter."""
    p = made.port
    u = made.node
    rows: list[Row] = []
    rows += [("GET", f"/v1/ports/{p}", f"1.{ver}", None) for ver in (1, 18, 19, 24, 34, 53, 88, 97, 100, 101, 111, 115)]
    rows += [
        ("GET", f"/v1/ports{q}", NEWEST, None)
        for q in (
            "",
            "?detail=true",
            "?fields=uuid,node_uuid",
            f"?node={u}",
            "?node=differ",
            "?node=nobody",
            f"?node_uuid={u}",
            f"?address={MAC}",
            "?address=52:54:00:00:00:99",
            "?address=x",
            f"?node={u}&portgroup={u}",
            "?shard=a",
            "?bogus=1",
            "?sort_key=address",
            "?sort_key=node_uuid",
            "?sort_key=extra",
            "?limit=1",
            "?description_contains=x",
            "?conductor_groups=a",
            "?fields=bogus",
            f"?portgroup={uuid.uuid4()}",
        )
    ]
    rows += [
        ("GET", "/v1/ports/detail", NEWEST, None),
        ("GET", f"/v1/ports/{MAC}", NEWEST, None),
        ("GET", "/v1/ports/nobody", NEWEST, None),
        ("GET", f"/v1/ports/{uuid.uuid4()}", NEWEST, None),
    ]
    return rows


def port_changes(made: Made) -> list[Row]:
    """Patches of a port."""
    p = made.port
    u = made.node
    rows: list[Row] = []
    rows += [
        ("PATCH", f"/v1/ports/{p}", NEWEST, b)
        for b in (
            [],
            [{"op": "replace", "path": "/address", "value": "52:54:00:FF:00:09"}],
            [{"op": "remove", "path": "/address"}],
            [{"op": "replace", "path": "/node_uuid", "value": str(uuid.uuid4())}],
            [{"op": "replace", "path": "/pxe_enabled", "value": "no"}],
            [{"op": "add", "path": "/extra/a", "value": 1}],
            [{"op": "replace", "path": "/uuid", "value": u}],
            [{"op": "remove", "path": "/extra"}],
            [{"op": "replace", "path": "/is_smartnic", "value": True}],
            [{"op": "add", "path": "/local_link_connection", "value": {"port_id": "1", "switch_id": "AA:BB:CC:DD:EE:FF"}}],
            [{"op": "remove", "path": "/local_link_connection"}],
            [{"op": "replace", "path": "/name", "value": "prt"}],
            [{"op": "replace", "path": "/name", "value": "a b"}],
        )
    ]
    rows += [
        ("GET", "/v1/ports/prt", NEWEST, None),
        ("GET", "/v1/ports/prt", "1.87", None),
        ("DELETE", f"/v1/ports/{uuid.uuid4()}", NEWEST, None),
        ("DELETE", f"/v1/ports/{p}", NEWEST, None),
    ]
    return rows


def chassis(made: Made) -> list[Row]:
    """Chassis."""
    u = made.node
    c = made.chassis
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/chassis", NEWEST, {"uuid": c, "description": "d", "extra": {"a": 1}}),
        ("POST", "/v1/chassis", NEWEST, {"uuid": c}),
        ("POST", "/v1/chassis", NEWEST, {"description": 3}),
        ("POST", "/v1/chassis", NEWEST, {"description": "x" * 300}),
        ("POST", "/v1/chassis", NEWEST, {"junk": 1}),
        ("GET", "/v1/chassis", NEWEST, None),
        ("GET", "/v1/chassis/detail", NEWEST, None),
        ("GET", f"/v1/chassis/{c}", NEWEST, None),
        ("GET", f"/v1/chassis/{c}?fields=uuid", NEWEST, None),
        ("GET", "/v1/chassis/nope", NEWEST, None),
        ("GET", f"/v1/chassis/{uuid.uuid4()}", NEWEST, None),
        ("PATCH", f"/v1/chassis/{c}", NEWEST, [{"op": "replace", "path": "/description", "value": "e"}]),
        ("PATCH", f"/v1/chassis/{c}", NEWEST, [{"op": "remove", "path": "/extra"}]),
        ("PATCH", f"/v1/chassis/{c}", NEWEST, [{"op": "replace", "path": "/uuid", "value": u}]),
        ("PATCH", n, NEWEST, [{"op": "add", "path": "/chassis_uuid", "value": c}]),
        ("GET", f"/v1/chassis/{c}/nodes", NEWEST, None),
        ("GET", f"/v1/chassis/{c}/nodes/detail", NEWEST, None),
        ("DELETE", f"/v1/chassis/{c}", NEWEST, None),
        ("PATCH", n, "1.24", [{"op": "remove", "path": "/chassis_uuid"}]),
        ("PATCH", n, NEWEST, [{"op": "remove", "path": "/chassis_uuid"}]),
        ("DELETE", f"/v1/chassis/{c}", NEWEST, None),
        ("DELETE", f"/v1/chassis/{c}", NEWEST, None),
    ]
    return rows


def portgroups(made: Made) -> list[Row]:
    """Portgroups."""
    u = made.node
    g = made.portgroup
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/portgroups", NEWEST, b)
        for b in (
            {"uuid": g, "node_uuid": u, "name": "pg", "address": MAC},
            {"node_uuid": u, "name": "pg"},
            {},
            {"node_uuid": str(uuid.uuid4())},
            {"node_uuid": u, "name": "a b"},
            {"node_uuid": u, "address": "x"},
            {"node_uuid": u, "x": 1},
            {"node_uuid": u, "mode": 3},
        )
    ]
    for ver in (22, 23, 25, 26, 102, 103, 111, 115):
        rows += [("GET", f"/v1/portgroups/{g}", f"1.{ver}", None), ("GET", "/v1/portgroups", f"1.{ver}", None)]
    rows += [
        ("GET", f"/v1/portgroups{q}", NEWEST, None)
        for q in (
            "?detail=true",
            "/detail",
            "?node=differ",
            f"?node={u}",
            "?node=nobody",
            f"?address={MAC}",
            "?fields=uuid,mode",
            "?fields=bogus",
            "?limit=1",
            "?sort_key=name",
            "?sort_key=extra",
            "/pg",
            "/nobody",
            "/a%20b",
            "?node=differ&shard=a",
            "?shard=a",
            f"/{g}/ports",
            f"/{g}/ports/detail",
        )
    ]
    return rows


def portgroup_changes(made: Made) -> list[Row]:
    """Patches of a portgroup."""
    g = made.portgroup
    u = made.node
    rows: list[Row] = []
    rows += [
        ("PATCH", f"/v1/portgroups/{g}", NEWEST, b)
        for b in (
            [{"op": "replace", "path": "/mode", "value": "802.3ad"}],
            [{"op": "remove", "path": "/mode"}],
            [{"op": "remove", "path": "/extra"}],
            [{"op": "replace", "path": "/uuid", "value": u}],
            [{"op": "replace", "path": "/name", "value": "a b"}],
            [{"op": "replace", "path": "/address", "value": "52:54:00:FF:AA:01"}],
        )
    ]
    rows += [("DELETE", f"/v1/portgroups/{uuid.uuid4()}", NEWEST, None), ("DELETE", "/v1/portgroups/pg", NEWEST, None)]
    return rows
