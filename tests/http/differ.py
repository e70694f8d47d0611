"""Asks a real Ironic and metald the same things and shows where their answers differ: a tool for people, not a test.

    python tests/http/differ.py http://127.0.0.1:6399 http://127.0.0.1:6377

Both must run with noauth and fake-hardware. It makes nodes in both and removes them again. What is compared: status,
version headers, the keys of the answer, and values that are not made by the service itself.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
import uuid
from typing import Any

_OWN = re.compile(r"^(uuid|created_at|updated_at|links|conductor|hosts|ports|states|portgroups|volume|reservation)$")


def ask(base: str, method: str, path: str, version: str | None, body: Any) -> tuple[int, dict[str, str], Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    if version:
        request.add_header("X-OpenStack-Ironic-API-Version", version)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, headers, text = answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        status, headers, text = error.code, dict(error.headers), error.read()
    try:
        return status, headers, json.loads(text) if text else None
    except ValueError:
        return status, headers, text.decode(errors="replace")


def fault(value: Any) -> str | None:
    if not isinstance(value, dict) or "error_message" not in value:
        return None
    try:
        inner = json.loads(value["error_message"])
    except (ValueError, TypeError):
        return str(value["error_message"])
    return str(inner.get("faultstring") or inner.get("description") or inner.get("title"))


def shape(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        return {k: ("..." if _OWN.match(k) and depth < 4 else shape(v, depth + 1)) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape(item, depth + 1) for item in value]
    if isinstance(value, str):
        return re.sub(r"https?://[^/]+", "BASE", re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", value))
    return value


def compare(bases: list[str], method: str, path: str, version: str | None, body: Any) -> bool:
    answers = [ask(base, method, path, version, body) for base in bases]
    (a, ah, av), (b, bh, bv) = answers
    differences = []
    if a != b:
        differences.append(f"status {a} != {b}")
    for header in ("X-OpenStack-Ironic-API-Version", "X-OpenStack-Ironic-API-Maximum-Version", "Location"):
        one, two = (re.sub(r"https?://[^/]+", "", h.get(header, "")) for h in (ah, bh))
        if shape(one) != shape(two):
            differences.append(f"{header} {one!r} != {two!r}")
    if a < 400 and b < 400 and shape(av) != shape(bv):
        differences.append(f"body\n    {json.dumps(shape(av))[:1500]}\n    {json.dumps(shape(bv))[:1500]}")
    if differences:
        print(f"{method} {path} {version} {json.dumps(body)[:200] if not isinstance(body, bytes) else body[:80]!r}")
        for line in differences:
            print("  ", line)
        for name, value in (("ironic", av), ("metald", bv)):
            if fault(value):
                print("   ", name, fault(value))
    return not differences


def cases(u: str, p: str) -> list[tuple[str, str, str | None, Any]]:
    v = "1.115"
    n = f"/v1/nodes/{u}"
    rows: list[tuple[str, str, str | None, Any]] = [
        ("GET", path, ver, None)
        for path in ("/", "/v1", "/v1/", "/v2", "/nodes", "/v1/x")
        for ver in (None, "1.1", "latest", "1.115", "2.0", "1.999", "x")
    ]
    rows += [("POST", "/v1", v, {}), ("DELETE", "/v1/nodes", v, None), ("PUT", "/v1/nodes", v, {}), ("HEAD", "/v1/nodes", v, None)]
    rows += [
        ("POST", "/v1/nodes", v, {"driver": "fake-hardware", "uuid": u, "name": "differ", "extra": {"a": {"b": 1}}, "resource_class": "rc"})
    ]
    for ver in range(1, 116, 3):
        rows += [("GET", n, f"1.{ver}", None), ("GET", "/v1/nodes/differ", f"1.{ver}", None)]
    rows += [("GET", n, "1.115", None)]
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
        rows.append(("POST", "/v1/nodes", v, {"driver": "fake-hardware", key: value}))
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
        rows += [("GET", f"/v1/nodes{query}", ver, None) for ver in (v, "1.1", "1.8", "1.43")]
    rows += [("GET", f"/v1/nodes/detail{q}", v, None) for q in ("", "?fields=uuid", "?limit=1", "?detail=true")]
    rows += [
        ("GET", path, v, None)
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
    rows += [("PATCH", n, v, body) for body in patches]
    rows += [
        ("PATCH", f"{n}?reset_interfaces=true", v, []),
        ("PATCH", f"{n}?reset_interfaces=true", "1.44", []),
        ("PATCH", n, "1.4", [{"op": "add", "path": "/name", "value": "x"}]),
    ]
    rows += [
        ("PUT", f"{n}/maintenance", v, {"reason": "r"}),
        ("PUT", f"{n}/maintenance", v, {"x": "r"}),
        ("PUT", f"{n}/maintenance", v, None),
        ("DELETE", f"{n}/maintenance", v, None),
        ("DELETE", "/v1/nodes/nope/maintenance", v, None),
    ]
    for body in (
        {},
        {"target": "x"},
        {"target": "soft power off", "timeout": 0},
        {"target": "power on", "timeout": "x"},
        {"target": 3},
        {"target": "power on", "junk": 1},
    ):
        rows.append(("PUT", f"{n}/states/power", v, body))
    rows.append(("PUT", f"{n}/states/power", "1.26", {"target": "soft power off"}))
    for body in (
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
    ):
        rows.append(("PUT", f"{n}/states/provision", v, body))
    rows += [
        ("PUT", f"{n}/states/provision", "1.3", {"target": "manage"}),
        ("PUT", f"{n}/states/provision", "1.86", {"target": "service"}),
        ("PUT", f"{n}/states/provision", "1.84", {"target": "unhold"}),
        ("PUT", f"{n}/states/provision", "1.72", {"target": "deploy"}),
    ]
    rows += [
        ("PUT", f"{n}/traits", v, b) for b in ({"traits": ["CUSTOM_A"]}, {"traits": ["nope"]}, {"traits": 3}, {}, {"x": []}, {"traits": []})
    ]
    rows += [
        ("PUT", f"{n}/traits/CUSTOM_B", v, None),
        ("PUT", f"{n}/traits/custom", v, None),
        ("PUT", f"{n}/traits/CUSTOM_C", v, {"traits": []}),
        ("DELETE", f"{n}/traits/CUSTOM_B", v, None),
        ("DELETE", f"{n}/traits/CUSTOM_Z", v, None),
        ("DELETE", f"{n}/traits", v, None),
        ("PUT", f"{n}/traits", "1.36", {"traits": []}),
    ]
    rows += [
        ("PUT", f"{n}/management/boot_device", v, b)
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
        ("PUT", f"{n}/management/inject_nmi", v, {}),
        ("PUT", f"{n}/management/inject_nmi", "1.28", {}),
        ("PUT", f"{n}/states/raid", v, {}),
        ("PUT", f"{n}/states/raid", v, {"logical_disks": [{"raid_level": "1", "size_gb": "MAX"}]}),
        ("PUT", f"{n}/states/raid", v, {"logical_disks": [{"raid_level": "9", "size_gb": 1}]}),
        ("PUT", f"{n}/states/raid", "1.11", {}),
    ]
    rows += [
        ("POST", f"{n}/vifs", v, b)
        for b in ({"id": str(uuid.uuid4())}, {"id": "a b"}, {}, {"id": "x", "port_uuid": u, "portgroup_uuid": u})
    ] + [("DELETE", f"{n}/vifs/{uuid.uuid4()}", v, None)]
    mac = "52:54:00:ff:00:01"
    rows += [
        ("POST", "/v1/ports", v, b)
        for b in (
            {"uuid": p, "node_uuid": u, "address": mac.upper()},
            {"node_uuid": u, "address": mac},
            {"node_uuid": str(uuid.uuid4()), "address": "52:54:00:ff:00:02"},
            {"address": mac},
            {"node_uuid": u},
            {"node_uuid": u, "address": "x"},
            {"node_ident": "differ", "node_uuid": u, "address": mac},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "junk": 1},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "local_link_connection": {"port_id": "x"}},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "is_smartnic": True},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "physical_network": ""},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "portgroup_uuid": str(uuid.uuid4())},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "name": "a b"},
            {"node_uuid": u, "address": "52:54:00:ff:00:03", "local_link_connection": {"port_id": "x", "switch_id": "nope"}},
        )
    ]
    for ver in (1, 18, 19, 24, 34, 53, 88, 97, 100, 101, 111, 115):
        rows.append(("GET", f"/v1/ports/{p}", f"1.{ver}", None))
    rows += [
        ("GET", f"/v1/ports{q}", v, None)
        for q in (
            "",
            "?detail=true",
            "?fields=uuid,node_uuid",
            f"?node={u}",
            "?node=differ",
            "?node=nobody",
            f"?node_uuid={u}",
            f"?address={mac}",
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
        ("GET", "/v1/ports/detail", v, None),
        ("GET", f"/v1/ports/{mac}", v, None),
        ("GET", "/v1/ports/nobody", v, None),
        ("GET", f"/v1/ports/{uuid.uuid4()}", v, None),
    ]
    rows += [
        ("PATCH", f"/v1/ports/{p}", v, b)
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
        ("GET", "/v1/ports/prt", v, None),
        ("GET", "/v1/ports/prt", "1.87", None),
        ("DELETE", f"/v1/ports/{uuid.uuid4()}", v, None),
        ("DELETE", f"/v1/ports/{p}", v, None),
    ]
    c = str(uuid.uuid4())
    rows += [
        ("POST", "/v1/chassis", v, {"uuid": c, "description": "d", "extra": {"a": 1}}),
        ("POST", "/v1/chassis", v, {"uuid": c}),
        ("POST", "/v1/chassis", v, {"description": 3}),
        ("POST", "/v1/chassis", v, {"description": "x" * 300}),
        ("POST", "/v1/chassis", v, {"junk": 1}),
        ("GET", "/v1/chassis", v, None),
        ("GET", "/v1/chassis/detail", v, None),
        ("GET", f"/v1/chassis/{c}", v, None),
        ("GET", f"/v1/chassis/{c}?fields=uuid", v, None),
        ("GET", "/v1/chassis/nope", v, None),
        ("GET", f"/v1/chassis/{uuid.uuid4()}", v, None),
        ("PATCH", f"/v1/chassis/{c}", v, [{"op": "replace", "path": "/description", "value": "e"}]),
        ("PATCH", f"/v1/chassis/{c}", v, [{"op": "remove", "path": "/extra"}]),
        ("PATCH", f"/v1/chassis/{c}", v, [{"op": "replace", "path": "/uuid", "value": u}]),
        ("PATCH", n, v, [{"op": "add", "path": "/chassis_uuid", "value": c}]),
        ("GET", f"/v1/chassis/{c}/nodes", v, None),
        ("GET", f"/v1/chassis/{c}/nodes/detail", v, None),
        ("DELETE", f"/v1/chassis/{c}", v, None),
        ("PATCH", n, "1.24", [{"op": "remove", "path": "/chassis_uuid"}]),
        ("PATCH", n, v, [{"op": "remove", "path": "/chassis_uuid"}]),
        ("DELETE", f"/v1/chassis/{c}", v, None),
        ("DELETE", f"/v1/chassis/{c}", v, None),
    ]
    rows += [
        ("GET", f"/v1/drivers{q}", ver, None)
        for q in (
            "",
            "?type=dynamic",
            "?type=classic",
            "?type=x",
            "?fields=name",
            "?fields=x",
            "/fake-hardware?fields=name",
            "/nope",
            "/nope/properties",
            "/fake-hardware/vendor_passthru/methods",
        )
        for ver in (v, "1.1", "1.29")
    ]
    rows += [
        ("GET", f"/v1/conductors{q}", v, None)
        for q in ("", "?detail=true", "/nope", "?limit=1", "?fields=hostname", "?fields=x", "?sort_key=hostname")
    ] + [("GET", "/v1/conductors", "1.48", None)]
    rows += [
        ("GET", f"/v1/lookup{q}", ver, None)
        for q in ("", "?addresses=x", f"?node_uuid={u}", "?addresses=52:54:00:00:00:00", "?junk=1")
        for ver in ("1.115", "1.21")
    ]
    rows += [
        ("POST", f"/v1/heartbeat/{u}", ver, b)
        for ver in ("1.115", "1.21", "1.35")
        for b in (
            {},
            {"callback_url": "http://x"},
            {"callback_url": "ftp://x", "agent_version": "1"},
            {"callback_url": "http://x", "agent_version": "1", "agent_token": "t"},
        )
    ]
    g, t, rb, al, vc, vt = (str(uuid.uuid4()) for _ in range(6))
    step = {"interface": "deploy", "step": "x", "args": {}, "priority": 10}
    order = {"interface": "deploy", "step": "x", "args": {}, "order": 1}
    rows += [
        ("POST", "/v1/portgroups", v, b)
        for b in (
            {"uuid": g, "node_uuid": u, "name": "pg", "address": mac},
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
        ("GET", f"/v1/portgroups{q}", v, None)
        for q in (
            "?detail=true",
            "/detail",
            "?node=differ",
            f"?node={u}",
            "?node=nobody",
            f"?address={mac}",
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
    rows += [
        ("PATCH", f"/v1/portgroups/{g}", v, b)
        for b in (
            [{"op": "replace", "path": "/mode", "value": "802.3ad"}],
            [{"op": "remove", "path": "/mode"}],
            [{"op": "remove", "path": "/extra"}],
            [{"op": "replace", "path": "/uuid", "value": u}],
            [{"op": "replace", "path": "/name", "value": "a b"}],
            [{"op": "replace", "path": "/address", "value": "52:54:00:FF:AA:01"}],
        )
    ]
    rows += [("DELETE", f"/v1/portgroups/{uuid.uuid4()}", v, None), ("DELETE", "/v1/portgroups/pg", v, None)]
    rows += [
        ("POST", "/v1/deploy_templates", ver, b)
        for ver in (v, "1.54")
        for b in (
            {"uuid": t, "name": "CUSTOM_T", "steps": [step]},
            {"name": "CUSTOM_T", "steps": [step]},
            {"name": "nope", "steps": [step]},
            {"name": "CUSTOM_A", "steps": []},
            {"name": "CUSTOM_A", "steps": [step, step]},
            {"name": "CUSTOM_A"},
            {"name": "CUSTOM_A", "steps": [{**step, "priority": "5"}], "extra": 1},
        )
    ]
    rows += [
        ("GET", f"/v1/deploy_templates{q}", ver, None)
        for ver in (v, "1.54")
        for q in ("", "?detail=true", "/CUSTOM_T", f"/{t}", "/nope", "?fields=name", "?fields=bogus", "?sort_key=steps", "?sort_key=name")
    ]
    rows += [
        ("PATCH", f"/v1/deploy_templates/{t}", v, b)
        for b in (
            [{"op": "replace", "path": "/steps/0/priority", "value": 3}],
            [{"op": "replace", "path": "/name", "value": "CUSTOM_U"}],
            [{"op": "remove", "path": "/name"}],
            [{"op": "remove", "path": "/steps"}],
            [{"op": "add", "path": "/steps/-", "value": step}],
            [{"op": "add", "path": "/uuid", "value": u}],
        )
    ]
    rows += [("DELETE", f"/v1/deploy_templates/{t}", v, None), ("DELETE", f"/v1/deploy_templates/{t}", v, None)]
    rows += [
        ("POST", "/v1/runbooks", ver, b)
        for ver in (v, "1.111", "1.91")
        for b in (
            {"uuid": rb, "name": "CUSTOM_R", "steps": [order]},
            {"name": "CUSTOM_R", "steps": [order]},
            {"name": "free", "steps": []},
            {"name": "x y", "steps": [order]},
            {"name": "CUSTOM_S", "steps": [order, order]},
        )
    ]
    rows += [
        ("GET", f"/v1/runbooks{q}", ver, None)
        for ver in (v, "1.111", "1.91")
        for q in ("", "?detail=true", "/CUSTOM_R", f"/{rb}", "/nope", f"/{rb}/traits")
    ]
    rows += [
        ("PUT", f"/v1/runbooks/{rb}/traits", v, {"traits": ["CUSTOM_A"]}),
        ("PUT", f"/v1/runbooks/{rb}/traits/CUSTOM_B", v, None),
        ("GET", f"/v1/runbooks/{rb}/traits", v, None),
        ("DELETE", f"/v1/runbooks/{rb}/traits/CUSTOM_Z", v, None),
        ("DELETE", f"/v1/runbooks/{rb}/traits", v, None),
        ("PATCH", f"/v1/runbooks/{rb}", v, [{"op": "replace", "path": "/public", "value": True}]),
        ("PATCH", f"/v1/runbooks/{rb}", v, [{"op": "replace", "path": "/owner", "value": "x"}]),
        ("DELETE", f"/v1/runbooks/{rb}", v, None),
    ]
    act = {"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}
    ri = str(uuid.uuid4())
    rows += [
        ("POST", "/v1/inspection_rules", ver, b)
        for ver in (v, "1.95")
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
        for ver in (v, "1.95")
        for q in ("", "?detail=true", f"/{ri}", "/nope", "?fields=uuid")
    ]
    rows += [
        ("PATCH", f"/v1/inspection_rules/{ri}", v, [{"op": "replace", "path": "/priority", "value": 3}]),
        ("DELETE", f"/v1/inspection_rules/{ri}", v, None),
        ("DELETE", "/v1/inspection_rules", v, None),
    ]
    rows += [
        ("POST", "/v1/volume/connectors", v, b)
        for b in (
            {"uuid": vc, "node_uuid": u, "type": "iqn", "connector_id": "c"},
            {"node_uuid": u, "type": "iqn", "connector_id": "c"},
            {"node_uuid": u},
            {"node_uuid": str(uuid.uuid4()), "type": "iqn", "connector_id": "d"},
        )
    ]
    rows += [
        ("POST", "/v1/volume/targets", v, b)
        for b in (
            {"uuid": vt, "node_uuid": u, "volume_type": "iscsi", "volume_id": "v", "boot_index": 0},
            {"node_uuid": u, "volume_type": "iscsi", "volume_id": "w", "boot_index": 0},
            {"node_uuid": u},
        )
    ]
    rows += [
        ("GET", f"/v1/volume{q}", ver, None)
        for ver in (v, "1.31")
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
    rows += [("GET", f"{n}/volume", v, None), ("GET", f"{n}/volume/connectors", v, None), ("GET", f"{n}/volume/targets", v, None)]
    rows += [
        ("PATCH", f"/v1/volume/targets/{vt}", v, [{"op": "replace", "path": "/boot_index", "value": 2}]),
        ("DELETE", f"/v1/volume/targets/{vt}", v, None),
        ("DELETE", f"/v1/volume/connectors/{vc}", v, None),
    ]
    rows += [
        ("POST", "/v1/allocations", ver, b)
        for ver in (v, "1.51", "1.57")
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
        ("POST", "/v1/allocations", v, {"uuid": al, "resource_class": "nothing", "name": "al"}),
        ("POST", "/v1/allocations", v, {"resource_class": "nothing", "name": "al"}),
    ]
    rows += [
        ("GET", f"/v1/allocations{q}", ver, None)
        for ver in (v, "1.51", "1.59")
        for q in ("?node=differ", "?state=bogus", "/nobody", f"{''}?fields=uuid", "?fields=bogus", "?owner=x", "?node=nobody")
    ]
    rows += [
        ("PATCH", f"/v1/allocations/{al}", v, [{"op": "replace", "path": "/name", "value": "am"}]),
        ("PATCH", f"/v1/allocations/{al}", v, [{"op": "replace", "path": "/owner", "value": "x"}]),
        ("PATCH", f"/v1/allocations/{al}", "1.56", []),
        ("DELETE", f"/v1/allocations/{al}", v, None),
        ("GET", f"{n}/allocation", v, None),
    ]
    rows += [("GET", "/v1/shards", ver, None) for ver in (v, "1.81")] + [
        ("POST", "/v1/events", ver, b)
        for ver in (v, "1.53")
        for b in (
            {},
            {"events": []},
            {"events": [{"event": "network.bind_port", "port_id": u, "mac_address": mac, "status": "ACTIVE"}]},
            {"events": [{"event": "x"}]},
        )
    ]
    rows += [
        ("GET", f"{n}/{q}", v, None)
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
    rows += [("DELETE", n, v, None), ("DELETE", n, v, None), ("GET", n, v, None)]
    return rows


def main() -> int:
    bases = sys.argv[1:3]
    rows = cases(str(uuid.uuid4()), str(uuid.uuid4()))
    same = sum(compare(bases, *row) for row in rows)
    print(f"{same} of {len(rows)} answers agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
