"""Asks both services, and says in what their answers differ."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

Row = tuple[str, str, str | None, Any]
"""Method, path, microversion and body of a request."""
NEWEST = "1.115"
MAC = "52:54:00:ff:00:01"
STEP = {"interface": "deploy", "step": "x", "args": {}, "priority": 10}
ORDER = {"interface": "deploy", "step": "x", "args": {}, "order": 1}


def _new() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Made:
    """UUIDs of what is made, the same in both services."""

    node: str = field(default_factory=_new)
    port: str = field(default_factory=_new)
    chassis: str = field(default_factory=_new)
    portgroup: str = field(default_factory=_new)
    template: str = field(default_factory=_new)
    runbook: str = field(default_factory=_new)
    rule: str = field(default_factory=_new)
    allocation: str = field(default_factory=_new)
    connector: str = field(default_factory=_new)
    target: str = field(default_factory=_new)


_OWN = re.compile(
    r"^(uuid|created_at|updated_at|links|conductor|hosts|ports|states|portgroups|volume|reservation|driver_internal_info|inspection_\w+_at)$"
)


def ask(base: str, method: str, path: str, version: str | None, body: Any) -> tuple[int, dict[str, str], Any]:
    """Status, headers and decoded body of an answer."""
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


_PASSING = ("is locked by host", "database is locked", "not to be locked on release")


def _settled(base: str, method: str, path: str, version: str | None, body: Any) -> tuple[int, dict[str, str], Any]:
    """An answer that does not come of an earlier request: Ironic refuses at once what metald waits for."""
    for _ in range(50):
        status, headers, value = ask(base, method, path, version, body)
        if status not in (400, 409, 500) or not any(phrase in (fault(value) or "") for phrase in _PASSING):
            break
        time.sleep(0.2)
    return status, headers, value


def fault(value: Any) -> str | None:
    """The text of an error, if it is one."""
    if not isinstance(value, dict) or "error_message" not in value:
        return None
    try:
        inner = json.loads(value["error_message"])
    except (ValueError, TypeError):
        return str(value["error_message"])
    return str(inner.get("faultstring") or inner.get("description") or inner.get("title"))


def shape(value: Any, depth: int = 0) -> Any:
    """The value without what each service makes for itself."""
    if isinstance(value, dict):
        return {k: ("..." if _OWN.match(k) and depth < 4 else shape(v, depth + 1)) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape(item, depth + 1) for item in value]
    if isinstance(value, str):
        value = re.sub(r"^\d{4}-\d\d-\d\dT\S+$", "TIME", value)
        return re.sub(r"https?://[^/]+", "BASE", re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", value))
    return value


def compare(bases: list[str], method: str, path: str, version: str | None, body: Any, *, phrases: bool = False) -> bool:
    """Ask both, print in what the answers differ, and tell whether they agree."""
    (a, ah, av), (b, bh, bv) = (_settled(base, method, path, version, body) for base in bases)
    found = [f"status {a} != {b}"] if a != b else []
    for header in ("X-OpenStack-Ironic-API-Version", "Location") if a < 400 else ():
        one, two = (shape(re.sub(r"https?://[^/]+", "", headers.get(header, ""))) for headers in (ah, bh))
        if one != two:
            found.append(f"{header} {one!r} != {two!r}")
    if a < 400 and b < 400:
        found += differences(shape(av), shape(bv))
    told = [fault(av), fault(bv)]
    if phrases and a == b and told[0] and shape(told[0]) not in shape(bv.get("error_message", "").replace('\\"', '"')):
        found.append("the texts differ")
    if found:
        print(f"{method} {path} {version} {str(body)[:200]}", *found[:10], sep="\n    ")
        print(*(f"    {name}: {text}" for name, text in zip(("ironic", "metald"), told, strict=True) if text), sep="\n")
    return not found


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """In what two JSON values differ, place by place."""
    if isinstance(one, dict) and isinstance(two, dict):
        found = [f"{path}/{key}: only {'metald' if key in two else 'ironic'} has it" for key in sorted(set(one) ^ set(two))]
        return found + [text for key in sorted(set(one) & set(two)) for text in differences(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [text for index, pair in enumerate(zip(one, two, strict=True)) for text in differences(*pair, f"{path}/{index}")]
    return [] if one == two else [f"{path}: {json.dumps(one)[:150]} != {json.dumps(two)[:150]}"]
