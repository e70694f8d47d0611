"""Every field, filter, sort key and verb at the version that brought it, the one before, and the newest; every read at all versions.

What is asked is made of what metald's own routes and views declare, and of lists of what each field may hold: a field that is
new in metald is asked of here without another line.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metald.http.route import Route
from metald.http.routes import ROUTES
from metald.http.views import Views
from metald.model import INTERFACES
from tests.differ.asking import MAC, NEWEST, ORDER, STEP, Made, Row

_GOOD: dict[str, Any] = {
    "automated_clean": True,
    "description": "d",
    "disable_power_off": False,
    "driver_info": {"a": 1},
    "extra": {"q": 1},
    "instance_info": {"x": 1},
    "instance_name": "vm1",
    "lessee": "l",
    "maintenance": False,
    "network_data": {},
    "owner": "o",
    "properties": {"cpus": 2},
    "protected": False,
    "resource_class": "other",
    "retired": False,
    "shard": "s",
    "name": "edged",
    "driver": "fake-hardware",
    "conductor_group": "",
}
_WRONG: tuple[Any, ...] = (3, "text", [], {"a": 1}, None, True, "")
_VIEWS = Views(lambda _node: None).named()
_LIST_PATHS = {
    "node": "nodes",
    "port": "ports",
    "chassis": "chassis",
    "conductor": "conductors",
    "portgroup": "portgroups",
    "allocation": "allocations",
    "deploy_template": "deploy_templates",
    "runbook": "runbooks",
    "inspection_rule": "inspection_rules",
    "volume_connector": "volume/connectors",
    "volume_target": "volume/targets",
}
_SINCE = {
    "portgroup": 23,
    "conductor": 49,
    "allocation": 52,
    "deploy_template": 55,
    "runbook": 92,
    "inspection_rule": 96,
    "volume_connector": 32,
    "volume_target": 32,
}


def _versions(since: int, least: int = 1) -> tuple[str, ...]:
    return tuple(f"1.{v}" for v in dict.fromkeys((since - 1, since, 115)) if v >= least)


def things(made: Made) -> list[Row]:
    """One of each kind."""
    u = made.node
    return [
        ("POST", "/v1/chassis", NEWEST, {"uuid": made.chassis, "description": "edges"}),
        (
            "POST",
            "/v1/nodes",
            NEWEST,
            {"driver": "fake-hardware", "uuid": u, "name": "edges", "chassis_uuid": made.chassis, "resource_class": "rc"},
        ),
        ("POST", "/v1/portgroups", NEWEST, {"uuid": made.portgroup, "node_uuid": u, "name": "edges-pg"}),
        ("POST", "/v1/ports", NEWEST, {"uuid": made.port, "node_uuid": u, "address": MAC, "portgroup_uuid": made.portgroup}),
        ("POST", "/v1/deploy_templates", NEWEST, {"uuid": made.template, "name": "CUSTOM_EDGE", "steps": [STEP]}),
        ("POST", "/v1/runbooks", NEWEST, {"uuid": made.runbook, "name": "CUSTOM_EDGE", "steps": [ORDER]}),
        (
            "POST",
            "/v1/inspection_rules",
            NEWEST,
            {
                "uuid": made.rule,
                "description": "edges",
                "actions": [{"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}],
                "conditions": [{"op": "eq", "args": {"values": [1, 1]}}],
            },
        ),
        ("POST", "/v1/volume/connectors", NEWEST, {"uuid": made.connector, "node_uuid": u, "type": "iqn", "connector_id": "edges"}),
        (
            "POST",
            "/v1/volume/targets",
            NEWEST,
            {"uuid": made.target, "node_uuid": u, "volume_type": "iscsi", "volume_id": "v", "boot_index": 0},
        ),
        ("POST", "/v1/allocations", NEWEST, {"uuid": made.allocation, "resource_class": "nothing", "name": "edges"}),
    ]


def removal(made: Made) -> list[Row]:
    """What `things` made goes away."""
    return [
        ("DELETE", f"/v1/{path}", NEWEST, None)
        for path in (
            f"allocations/{made.allocation}",
            f"inspection_rules/{made.rule}",
            f"runbooks/{made.runbook}",
            f"deploy_templates/{made.template}",
            f"nodes/{made.node}",
            f"chassis/{made.chassis}",
        )
    ]


def _one(made: Made) -> dict[str, str]:
    return {
        "node": made.node,
        "port": made.port,
        "chassis": made.chassis,
        "portgroup": made.portgroup,
        "allocation": made.allocation,
        "deploy_template": made.template,
        "runbook": made.runbook,
        "inspection_rule": made.rule,
        "volume_connector": made.connector,
        "volume_target": made.target,
    }


def reads(made: Made) -> Iterator[Row]:
    """Everything that can be read, at every version."""
    fixed = {**_one(made), "driver": "fake-hardware", "trait": "CUSTOM_A", "vif": made.port, "conductor": "nobody"}
    fixed |= {"setting": "nosetting", "indicator": "led@system", "event": str(uuid.uuid4()), "method": "third_method_sync"}
    for route in ROUTES:
        if route.method != "GET" or not route.versioned or not route.path.startswith("/v1"):
            continue
        if route.path.count("vendor_passthru/{") or "lookup" in route.path or route.path == "/v1/nodes/validate":
            continue
        path = route.path.format(**fixed)
        wide = any(arg.name == "detail" for arg in route.args)
        for minor in range(1, 116) if route.path.startswith("/v1/nodes") and wide else _turns(route):
            yield ("GET", path, f"1.{minor}", None)
            if wide:
                yield ("GET", f"{path}?detail=true", f"1.{minor}", None)


def _turns(route: Route) -> list[int]:
    """Versions at which the answer of a route may change."""
    view = _VIEWS.get(route.answer.removesuffix("_list"))
    news = {route.since, 2, 8, 39, 43, 91, 115, *(field.since for field in (view.fields.values() if view else ()))}
    return sorted({version for new in news for version in (new - 1, new) if version})


def choices(made: Made) -> Iterator[Row]:
    """Every field chosen and sorted by, at its edges."""
    one = _one(made)
    for kind, view in _VIEWS.items():
        path, least = f"/v1/{_LIST_PATHS[kind]}", _SINCE.get(kind, 1)
        for name, field in view.fields.items():
            for version in _versions(max(field.since, 8), least):
                yield ("GET", f"{path}?fields=uuid,{name}" if kind != "conductor" else f"{path}?fields=hostname,{name}", version, None)
                if kind in one:
                    yield ("GET", f"{path}/{one[kind]}?fields={name}", version, None)
            for version in _versions(field.since, least):
                yield ("GET", f"{path}?sort_key={name}", version, None)
                yield ("GET", f"{path}?sort_key={name}&sort_dir=desc&limit=1", version, None)
        for word in ("bogus", "id", "node_id", "chassis_id", "version", "links"):
            yield ("GET", f"{path}?sort_key={word}", NEWEST, None)


def filters(made: Made) -> Iterator[Row]:
    """Every filter with values that fit, do not fit and make no sense, at its edges."""
    values = {
        "chassis_uuid": (made.chassis, str(uuid.uuid4()), "nope"),
        "instance_uuid": (str(uuid.uuid4()), "nope"),
        "fault": ("power%20failure", "nope", ""),
        "provision_state": ("enroll", "available", "nope", "inspect%20wait"),
        "parent_node": (made.node, "edges", "nobody"),
        "node": (made.node, "edges", "nobody", str(uuid.uuid4())),
        "node_uuid": (made.node, "nope", str(uuid.uuid4())),
        "portgroup": (made.portgroup, "edges-pg", "nobody"),
        "address": (MAC, MAC.upper(), "nope"),
        "state": ("allocating", "active", "error", "nope"),
        "shard": ("s", "s,t", ""),
        "detail": ("true", "false", "maybe"),
        "limit": ("1", "0", "-1", "x", "", "1001"),
        "marker": ("nope", str(uuid.uuid4()), ""),
        "sort_key": ("uuid",),
        "sort_dir": ("asc", "desc", "up"),
        "fields": ("uuid", "uuid,uuid", ",", "uuid,%20uuid", ""),
    }
    flags = ("associated", "maintenance", "retired", "sharded", "include_children")
    for route in ROUTES:
        if route.method != "GET" or not route.path.startswith("/v1/") or "{" in route.path or not route.args:
            continue
        if not route.versioned or "lookup" in route.path or "events" in route.path:
            continue
        for arg in route.args:
            given = values.get(arg.name) or (("true", "false", "1", "maybe") if arg.name in flags else ("x", "", "rc", "edges"))
            for value in given:
                for version in _versions(max(arg.since, route.since), route.since):
                    yield ("GET", f"{route.path}?{arg.name}={value}", version, None)


def changes(made: Made) -> Iterator[Row]:
    """Every field of a node set, removed and set wrongly, in a new node and in one that is there."""
    fields = _VIEWS["node"].fields
    good = {**_GOOD, **{f"{kind}_interface": "fake" for kind in INTERFACES if kind not in ("network", "storage")}}
    good |= {"network_interface": "noop", "storage_interface": "noop"}
    for name, field in fields.items():
        for version in _versions(max(field.since, 2)):
            value = good.get(name, "x")
            yield ("PATCH", f"/v1/nodes/{made.node}", version, [{"op": "replace", "path": f"/{name}", "value": value}])
            yield ("PATCH", f"/v1/nodes/{made.node}", version, [{"op": "add", "path": f"/{name}", "value": value}])
        yield ("PATCH", f"/v1/nodes/{made.node}", NEWEST, [{"op": "remove", "path": f"/{name}"}])
        for wrong in _WRONG:
            yield ("PATCH", f"/v1/nodes/{made.node}", NEWEST, [{"op": "replace", "path": f"/{name}", "value": wrong}])
    yield ("PATCH", f"/v1/nodes/{made.node}", NEWEST, [{"op": "replace", "path": "/name", "value": "edges"}])


def creations(_made: Made) -> Iterator[Row]:
    """New nodes with each field, at its edges and with wrong values."""
    good = {**_GOOD, **{f"{kind}_interface": "fake" for kind in INTERFACES if kind not in ("network", "storage")}}
    good |= {"network_interface": "noop", "storage_interface": "noop"}
    for name, field in _VIEWS["node"].fields.items():
        if name == "driver":
            continue
        for version in _versions(max(field.since, 2)):
            yield from _made_and_removed(version, {"driver": "fake-hardware", name: good.get(name, "x")})
        for wrong in _WRONG:
            yield from _made_and_removed(NEWEST, {"driver": "fake-hardware", name: wrong})


def _made_and_removed(version: str, body: dict[str, Any]) -> Iterator[Row]:
    own = str(uuid.uuid4())
    yield ("POST", "/v1/nodes", version, {"uuid": own, **body})
    yield ("DELETE", f"/v1/nodes/{own}", NEWEST, None)


_CREATED: dict[str, dict[str, Any]] = {
    "port": {"address": "52:54:00:ff:00:77", "node_uuid": "NODE"},
    "portgroup": {"node_uuid": "NODE"},
    "chassis": {},
    "deploy_template": {"name": "CUSTOM_OTHER", "steps": [STEP]},
    "runbook": {"name": "CUSTOM_OTHER", "steps": [ORDER]},
    "inspection_rule": {"actions": [{"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}]},
    "volume_connector": {"node_uuid": "NODE", "type": "wwpn", "connector_id": "other"},
    "volume_target": {"node_uuid": "NODE", "volume_type": "iscsi", "volume_id": "other", "boot_index": 7},
}


def parts(made: Made) -> Iterator[Row]:
    """Every field of everything else, in a new thing and in one that is there."""
    for kind, given in _CREATED.items():
        path = f"/v1/{_LIST_PATHS[kind]}"
        least = _SINCE.get(kind, 1)
        body = {key: made.node if value == "NODE" else value for key, value in given.items()}
        for missing in body:
            yield ("POST", path, NEWEST, {key: value for key, value in body.items() if key != missing})
        for name, field in _VIEWS[kind].fields.items():
            one = f"{path}/{_one(made)[kind]}"
            for value in (*_WRONG, body.get(name, "x")):
                own = str(uuid.uuid4())
                for version in _versions(field.since, least) if value == "x" else (NEWEST,):
                    yield ("POST", path, version, {"uuid": own, **body, name: value})
                    yield ("DELETE", f"{path}/{own}", NEWEST, None)
                    if name != "node_uuid":
                        yield ("PATCH", one, version, [{"op": "replace", "path": f"/{name}", "value": value}])
            yield ("PATCH", one, NEWEST, [{"op": "remove", "path": f"/{name}"}])


PARTS: Mapping[str, Callable[[Made], Iterator[Row]]] = {
    part.__name__: part for part in (reads, choices, filters, changes, creations, parts)
}
"""What may be asked by `--edges`; each takes some minutes."""
