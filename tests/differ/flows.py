"""A node through its whole life, patched in every state that it stops in."""

from __future__ import annotations

import time
import uuid
from typing import Any

from metald.model.states import ProvisionState, Verb
from metald.statemachine.table import Table
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
_VENDOR = [{"interface": "vendor", "step": "log_passthrough"}]
_WITH: dict[str, dict[str, Any]] = {
    "clean": {"clean_steps": _VENDOR},
    "service": {"service_steps": _VENDOR},
    "rescue": {"rescue_password": "secret"},
}
_TARGETS = ("active", "deploy", "rebuild", "deleted", "undeploy", "manage", "provide", "inspect", "abort", "clean", "adopt")
_TARGETS += ("rescue", "unrescue", "unhold", "service")
_LIFE: tuple[dict[str, Any], ...] = (
    {"target": "manage"},
    {"target": "inspect"},
    {"target": "clean", "clean_steps": _CLEAN},
    {"target": "provide"},
    {"target": "active"},
    {"target": "rebuild"},
    {"target": "rescue", "rescue_password": "secret"},
    {"target": "rescue", "rescue_password": "secret"},
    {"target": "unrescue"},
    {"target": "service", "service_steps": _VENDOR},
    {"target": "deleted"},
    {"target": "manage"},
    {"target": "adopt"},
)


def life(bases: list[str]) -> list[bool]:
    """Compare each verb, the node after it, and what may be patched then.

    Steps that hold are left out: Ironic drops them where the deploy interface is `fake`.
    """
    node = str(uuid.uuid4())
    path = f"/v1/nodes/{node}"
    found = [compare(bases, "POST", "/v1/nodes", NEWEST, {"driver": "fake-hardware", "uuid": node})]
    found.append(compare(bases, "PUT", f"{path}/states/power", NEWEST, {"target": "power off"}))
    _settle(bases, path)
    for verb in _LIFE:
        found.append(compare(bases, "PUT", f"{path}/states/provision", NEWEST, verb))
        _settle(bases, path)
        found += [compare(bases, "GET", f"{path}{rest}", NEWEST, None) for rest in ("", "/states", "/validate", "/bios")]
        found += _refused(bases, path)
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


def _refused(bases: list[str], path: str) -> list[bool]:
    """Compare every verb that leads nowhere from here, and powers that there are not."""
    state = ProvisionState(ask(bases[1], "GET", path, NEWEST, None)[2]["provision_state"])
    possible = {verb.value for verb in Table().verbs(state)} | {"active" if Verb.DEPLOY in Table().verbs(state) else ""}
    possible |= {"deleted", "undeploy"} if Verb.DELETE in Table().verbs(state) else set()
    bodies = [{"target": name, **_WITH.get(name, {})} for name in _TARGETS if name not in possible]
    found = [compare(bases, "PUT", f"{path}/states/provision", NEWEST, body) for body in bodies]
    return [*found, compare(bases, "PUT", f"{path}/states/power", NEWEST, {"target": "bogus"})]


def _settle(bases: list[str], path: str) -> None:
    deadline = time.monotonic() + 60
    for base in bases:
        while time.monotonic() < deadline:
            _, _, node = ask(base, "GET", path, NEWEST, None)
            if node["provision_state"] not in _MOVING and node["reservation"] is None:
                break
            time.sleep(0.2)
