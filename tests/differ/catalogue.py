"""Templates, runbooks, inspection rules, volumes, allocations, shards, events."""

from __future__ import annotations

import uuid

from tests.differ.asking import MAC, NEWEST, ORDER, STEP, Made, Row


def deploy_templates(made: Made) -> list[Row]:
    """Deploy templates."""
    u = made.node
    t = made.template
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/deploy_templates", ver, b)
        for ver in (NEWEST, "1.54")
        for b in (
            {"uuid": t, "name": "CUSTOM_T", "steps": [STEP]},
            {"name": "CUSTOM_T", "steps": [STEP]},
            {"name": "nope", "steps": [STEP]},
            {"name": "CUSTOM_A", "steps": []},
            {"name": "CUSTOM_A", "steps": [STEP, STEP]},
            {"name": "CUSTOM_A"},
            {"name": "CUSTOM_A", "steps": [{**STEP, "priority": "5"}], "extra": 1},
        )
    ]
    rows += [
        ("GET", f"/v1/deploy_templates{q}", ver, None)
        for ver in (NEWEST, "1.54")
        for q in ("", "?detail=true", "/CUSTOM_T", f"/{t}", "/nope", "?fields=name", "?fields=bogus", "?sort_key=steps", "?sort_key=name")
    ]
    rows += [
        ("PATCH", f"/v1/deploy_templates/{t}", NEWEST, b)
        for b in (
            [{"op": "replace", "path": "/steps/0/priority", "value": 3}],
            [{"op": "replace", "path": "/name", "value": "CUSTOM_U"}],
            [{"op": "remove", "path": "/name"}],
            [{"op": "remove", "path": "/steps"}],
            [{"op": "add", "path": "/steps/-", "value": STEP}],
            [{"op": "add", "path": "/uuid", "value": u}],
        )
    ]
    rows += [("DELETE", f"/v1/deploy_templates/{t}", NEWEST, None), ("DELETE", f"/v1/deploy_templates/{t}", NEWEST, None)]
    return rows


def runbooks(made: Made) -> list[Row]:
    """Runbooks."""
    rb = made.runbook
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/runbooks", ver, b)
        for ver in (NEWEST, "1.111", "1.91")
        for b in (
            {"uuid": rb, "name": "CUSTOM_R", "steps": [ORDER]},
            {"name": "CUSTOM_R", "steps": [ORDER]},
            {"name": "free", "steps": []},
            {"name": "x y", "steps": [ORDER]},
            {"name": "CUSTOM_S", "steps": [ORDER, ORDER]},
        )
    ]
    rows += [
        ("GET", f"/v1/runbooks{q}", ver, None)
        for ver in (NEWEST, "1.111", "1.91")
        for q in ("", "?detail=true", "/CUSTOM_R", f"/{rb}", "/nope", f"/{rb}/traits")
    ]
    rows += [
        ("PUT", f"/v1/runbooks/{rb}/traits", NEWEST, {"traits": ["CUSTOM_A"]}),
        ("PUT", f"/v1/runbooks/{rb}/traits/CUSTOM_B", NEWEST, None),
        ("GET", f"/v1/runbooks/{rb}/traits", NEWEST, None),
        ("DELETE", f"/v1/runbooks/{rb}/traits/CUSTOM_Z", NEWEST, None),
        ("DELETE", f"/v1/runbooks/{rb}/traits", NEWEST, None),
        ("PATCH", f"/v1/runbooks/{rb}", NEWEST, [{"op": "replace", "path": "/public", "value": True}]),
        ("PATCH", f"/v1/runbooks/{rb}", NEWEST, [{"op": "replace", "path": "/owner", "value": "x"}]),
        ("DELETE", f"/v1/runbooks/{rb}", NEWEST, None),
    ]
    return rows


def inspection_rules(made: Made) -> list[Row]:
    """Inspection rules."""
    ri = made.rule
    rows: list[Row] = []
    act = {"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}
    rows += [
        ("POST", "/v1/inspection_rules", ver, b)
        for ver in (NEWEST, "1.95")
        for b in (
            {"uuid": ri, "actions": [act], "description": "d"},
            {},
            {"actions": []},
            {"actions": [{"op": "nope", "args": {}}]},
            {"actions": [act], "priority": -1},
            {"actions": [act], "phase": "x"},
            {"actions": [act], "conditions": [{"op": "eq", "args": {"values": [1, 1]}}]},
            {"actions": [act], "conditions": [{"op": "nope", "args": {}}]},
        )
    ]
    rows += [
        ("GET", f"/v1/inspection_rules{q}", ver, None)
        for ver in (NEWEST, "1.95")
        for q in ("", "?detail=true", f"/{ri}", "/nope", "?fields=uuid")
    ]
    rows += [
        ("PATCH", f"/v1/inspection_rules/{ri}", NEWEST, [{"op": "replace", "path": "/priority", "value": 3}]),
        ("DELETE", f"/v1/inspection_rules/{ri}", NEWEST, None),
        ("DELETE", "/v1/inspection_rules", NEWEST, None),
    ]
    return rows


def volumes(made: Made) -> list[Row]:
    """Volume connectors and targets."""
    u = made.node
    vc = made.connector
    vt = made.target
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/volume/connectors", NEWEST, b)
        for b in (
            {"uuid": vc, "node_uuid": u, "type": "iqn", "connector_id": "c"},
            {"node_uuid": u, "type": "iqn", "connector_id": "c"},
            {"node_uuid": u},
            {"node_uuid": str(uuid.uuid4()), "type": "iqn", "connector_id": "d"},
        )
    ]
    rows += [
        ("POST", "/v1/volume/targets", NEWEST, b)
        for b in (
            {"uuid": vt, "node_uuid": u, "volume_type": "iscsi", "volume_id": "v", "boot_index": 0},
            {"node_uuid": u, "volume_type": "iscsi", "volume_id": "w", "boot_index": 0},
            {"node_uuid": u},
        )
    ]
    rows += [
        ("GET", f"/v1/volume{q}", ver, None)
        for ver in (NEWEST, "1.31")
        for q in (
            "",
            "/connectors",
            "/targets",
            f"/connectors/{vc}",
            f"/targets/{vt}",
            "/connectors?detail=true",
            "/targets?detail=true",
            "/connectors?node=differ",
            "/connectors?node=nobody",
            "/targets?fields=uuid",
            "/connectors/nope",
            f"/targets/{uuid.uuid4()}",
        )
    ]
    rows += [
        ("GET", f"{n}/volume", NEWEST, None),
        ("GET", f"{n}/volume/connectors", NEWEST, None),
        ("GET", f"{n}/volume/targets", NEWEST, None),
    ]
    rows += [
        ("PATCH", f"/v1/volume/targets/{vt}", NEWEST, [{"op": "replace", "path": "/boot_index", "value": 2}]),
        ("DELETE", f"/v1/volume/targets/{vt}", NEWEST, None),
        ("DELETE", f"/v1/volume/connectors/{vc}", NEWEST, None),
    ]
    return rows


def allocations(made: Made) -> list[Row]:
    """Allocations."""
    u = made.node
    al = made.allocation
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [
        ("POST", "/v1/allocations", ver, b)
        for ver in (NEWEST, "1.51", "1.57")
        for b in (
            {},
            {"resource_class": "nothing", "name": "a b"},
            {"node": "nobody"},
            {"node": "differ"},
            {"resource_class": "x", "traits": ["no"]},
            {"resource_class": "x", "candidate_nodes": ["nobody"]},
            {"x": 1},
        )
    ]
    rows += [
        ("POST", "/v1/allocations", NEWEST, {"uuid": al, "resource_class": "nothing", "name": "al"}),
        ("POST", "/v1/allocations", NEWEST, {"resource_class": "nothing", "name": "al"}),
    ]
    rows += [
        ("GET", f"/v1/allocations{q}", ver, None)
        for ver in (NEWEST, "1.51", "1.59")
        for q in ("?node=differ", "?state=bogus", "/nobody", f"{''}?fields=uuid", "?fields=bogus", "?owner=x", "?node=nobody")
    ]
    rows += [
        ("PATCH", f"/v1/allocations/{al}", NEWEST, [{"op": "replace", "path": "/name", "value": "am"}]),
        ("PATCH", f"/v1/allocations/{al}", NEWEST, [{"op": "replace", "path": "/owner", "value": "x"}]),
        ("PATCH", f"/v1/allocations/{al}", "1.56", []),
        ("DELETE", f"/v1/allocations/{al}", NEWEST, None),
        ("GET", f"{n}/allocation", NEWEST, None),
    ]
    return rows


def others(made: Made) -> list[Row]:
    """Shards, events, and the end."""
    u = made.node
    n = f"/v1/nodes/{u}"
    rows: list[Row] = []
    rows += [("GET", "/v1/shards", ver, None) for ver in (NEWEST, "1.81")] + [
        ("POST", "/v1/events", ver, b)
        for ver in (NEWEST, "1.53")
        for b in (
            {},
            {"events": []},
            {"events": [{"event": "network.bind_port", "port_id": u, "mac_address": MAC, "status": "ACTIVE"}]},
            {"events": [{"event": "x"}]},
        )
    ]
    rows += [
        ("GET", f"{n}/{q}", NEWEST, None)
        for q in (
            "children",
            "inventory",
            "firmware",
            "bios",
            "bios/x",
            "vmedia",
            "management/indicators",
            "states/console",
            "vendor_passthru/methods",
        )
    ]
    rows += [("DELETE", n, NEWEST, None), ("DELETE", n, NEWEST, None), ("GET", n, NEWEST, None)]
    return rows
