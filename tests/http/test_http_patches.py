"""A fuzzer of JSON patches, beside a model: no patch is answered 5xx, a refused one changes nothing, an accepted one reads back."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api import Api

_TIMES = ("updated_at", "provision_updated_at")
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.none() | st.booleans() | NUMBER | st.text(max_size=12)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)
KEY = st.sampled_from(["a", "b", "c", "a/b", "x~y", "0", "1", "-", "", "é", "list"]) | st.text(max_size=5)
OPEN = st.sampled_from(["extra", "properties"])
ROOTS = {
    "nodes": ["name", "description", "owner", "resource_class", "maintenance", "retired", "protected", "driver", "uuid", "traits"],
    "ports": ["address", "name", "pxe_enabled", "local_link_connection", "physical_network", "node_uuid", "uuid", "is_smartnic"],
    "chassis": ["description", "uuid", "nodes", "links"],
    "portgroups": ["address", "name", "mode", "standalone_ports_supported", "physical_network", "node_uuid", "uuid"],
    "allocations": ["name", "resource_class", "state", "owner", "candidate_nodes"],
    "deploy_templates": ["name", "steps", "description", "uuid"],
    "runbooks": ["name", "steps", "public", "owner", "disable_ramdisk", "traits"],
    "inspection_rules": ["priority", "description", "phase", "sensitive", "actions", "conditions"],
    "volume/connectors": ["type", "connector_id", "node_uuid"],
    "volume/targets": ["volume_type", "volume_id", "boot_index", "node_uuid"],
}
STEP = {"interface": "deploy", "step": "deploy", "args": {}}
RULE = {"op": "set-attribute", "args": {"path": "/extra/a", "value": 1}}


def token(text: str) -> str:
    return text.replace("~", "~0").replace("/", "~1")


def operations(roots: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    inside = st.tuples(OPEN, st.lists(KEY, max_size=3)).map(lambda pair: [pair[0], *pair[1]])
    path = (inside | inside | st.sampled_from(roots).map(lambda root: [root])).map(lambda parts: "/" + "/".join(map(token, parts)))
    with_value = st.fixed_dictionaries({"op": st.sampled_from(["add", "replace"]), "path": path, "value": VALUE})
    odd = st.fixed_dictionaries({"op": st.sampled_from(["move", "copy", "test", "remove", ""]), "path": path | st.text(max_size=8)})
    return st.lists(with_value | with_value | st.fixed_dictionaries({"op": st.just("remove"), "path": path}) | odd, max_size=5)


class Refused(Exception):
    """The model says that RFC 6902 does not let the patch be applied."""


def apply(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902's add, replace and remove, written as plainly as can be."""
    document = copy.deepcopy(document)
    for operation in patch:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"][1:].split("/")]
        holder = document
        for part in parts[:-1]:
            holder = _step(holder, part)
        _put(holder, parts[-1], operation)
    return document


def _step(holder: Any, part: str) -> Any:
    if isinstance(holder, list):
        return holder[_index(part, len(holder) - 1)]
    if not isinstance(holder, dict) or part not in holder:
        raise Refused
    return holder[part]


def _put(holder: Any, part: str, operation: dict[str, Any]) -> None:
    op, value = operation["op"], operation.get("value")
    if isinstance(holder, list):
        if op == "add":
            holder.insert(len(holder) if part == "-" else _index(part, len(holder)), value)
        elif op == "replace":
            holder[_index(part, len(holder) - 1)] = value
        else:
            del holder[_index(part, len(holder) - 1)]
        return
    if not isinstance(holder, dict) or (op != "add" and part not in holder):
        raise Refused
    if op == "remove":
        del holder[part]
    else:
        holder[part] = value


def _index(part: str, most: int) -> int:
    if not (part.isascii() and part.isdigit() and str(int(part)) == part and int(part) <= most):
        raise Refused
    return int(part)


@pytest_asyncio.fixture
async def things(api: Api) -> AsyncIterator[tuple[Api, dict[str, str]]]:
    start = {"a": {"b": [1, {"c": 2}]}, "list": [1, 2, 3], "x~y": {}}
    node = await api.node(name="n1", extra=start, properties=start)
    port = await api.make("ports", node_uuid=node["uuid"], address="52:54:00:00:00:01", extra=start)
    chassis = await api.make("chassis", extra=start)
    await api.force(node["uuid"], power_state="power off")
    owner = {"node_uuid": node["uuid"], "extra": start}
    others = {
        "portgroups": {**owner, "properties": start},
        "allocations": {"resource_class": "nothing", "extra": start},
        "deploy_templates": {"name": "CUSTOM_A", "steps": [{**STEP, "priority": 1}], "extra": start},
        "runbooks": {"name": "CUSTOM_A", "steps": [{**STEP, "order": 1}], "extra": start},
        "inspection_rules": {"actions": [RULE], "conditions": [{"op": "eq", "args": {"values": [1, 1]}}]},
        "volume/connectors": {**owner, "type": "iqn", "connector_id": "a"},
        "volume/targets": {**owner, "volume_type": "iscsi", "volume_id": "a", "boot_index": 0, "properties": start},
    }
    uuids = {kind: (await api.make(kind, **body))["uuid"] for kind, body in others.items()}
    while (await api.get(f"/v1/allocations/{uuids['allocations']}"))["state"] == "allocating":
        await asyncio.sleep(0.01)
    yield api, {"nodes": node["uuid"], "ports": port["uuid"], "chassis": chassis["uuid"], **uuids}


def shown(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name not in _TIMES}


async def attempt(api: Api, path: str, patch: list[dict[str, Any]]) -> None:
    before = await api.get(path)
    answer = await api.ask("PATCH", path, patch)
    after = await api.get(path)
    assert answer.status < 500, (patch, answer.body)
    if answer.status != 200:
        assert 400 <= answer.status < 500
        assert shown(after) == shown(before), patch
        return
    assert shown(answer.json) == shown(after), patch
    expected = apply(before, patch)
    for root in ("extra", "properties"):
        if root in before:
            # A field that is removed, or set to null, is empty again.
            assert after[root] == (expected.get(root) or {}), (patch, after[root])


@settings(max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_patches_do_what_they_say_or_nothing(things: tuple[Api, dict[str, str]], data: st.DataObject) -> None:
    api, uuids = things
    kind = data.draw(st.sampled_from(sorted(ROOTS)))
    await attempt(api, f"/v1/{kind}/{uuids[kind]}", data.draw(operations(ROOTS[kind])))
