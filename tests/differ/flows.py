"""A node through its whole life, patched in every state that it stops in."""

from __future__ import annotations

import time
import uuid
from typing import Any

from tests.differ.asking import NEWEST, ask, compare

_MOVING = {"verifying", "cleaning", "deploying", "inspecting", "deleting", "adopting", "rescuing", "unrescuing", "servicing"}
_VALUES: dict[str, Any] = {
    "name": "other",
    "driver_info": {"a": 1},
    "properties": {"cpus": 2},
    "instance_info": {"x": 1},
    "extra": {"q": 1},
    "resource_class": "other",
    "owner": "o",
    "description": "d",
    "protected": True,
    "retired": True,
    "shard": "s",
    "deploy_interface": "direct",
    "maintenance": True,
    "instance_uuid": str(uuid.uuid4()),
}
_CLEAN = [{"interface": "bios", "step": "apply_configuration", "args": {"settings": [{"name": "a", "value": "1"}]}}]
_HOLD = [{"interface": "deploy", "step": "hold"}]
_VENDOR = [{"interface": "vendor", "step": "log_passthrough"}]
_LIFE: tuple[dict[str, Any], ...] = (
    {"target": "manage"},
    {"target": "inspect"},
    {"target": "clean", "clean_steps": _CLEAN},
    {"target": "clean", "clean_steps": _HOLD},
    {"target": "unhold"},
    {"target": "abort"},
    {"target": "manage"},
    {"target": "provide"},
    {"target": "active"},
    {"target": "rescue", "rescue_password": "secret"},
    {"target": "unrescue"},
    {"target": "service", "service_steps": _VENDOR},
    {"target": "deleted"},
    {"target": "manage"},
    {"target": "adopt"},
)


def life(bases: list[str]) -> list[bool]:
    """Compare each verb, the node after it, and what may be patched then."""
    node = str(uuid.uuid4())
    path = f"/v1/nodes/{node}"
    found = [compare(bases, "POST", "/v1/nodes", NEWEST, {"driver": "fake-hardware", "uuid": node})]
    for verb in _LIFE:
        found.append(compare(bases, "PUT", f"{path}/states/provision", NEWEST, verb))
        _settle(bases, path)
        found += [compare(bases, "GET", f"{path}{rest}", NEWEST, None) for rest in ("", "/states", "/validate", "/bios")]
        for field, value in _VALUES.items():
            found.append(compare(bases, "PATCH", path, NEWEST, [{"op": "replace", "path": f"/{field}", "value": value}]))
            back = (
                [{"op": "remove", "path": f"/{field}"}] if value is not True else [{"op": "replace", "path": f"/{field}", "value": False}]
            )
            for base in bases:
                ask(base, "PATCH", path, NEWEST, back)
    for base in bases:
        ask(base, "PUT", f"{path}/maintenance", NEWEST, {})
    return [*found, compare(bases, "DELETE", path, NEWEST, None)]


def _settle(bases: list[str], path: str) -> None:
    deadline = time.monotonic() + 60
    for base in bases:
        while time.monotonic() < deadline:
            _, _, node = ask(base, "GET", path, NEWEST, None)
            if node["provision_state"] not in _MOVING and node["reservation"] is None:
                break
            time.sleep(0.2)
