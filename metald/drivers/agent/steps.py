"""Steps that an agent offers: asked for once per boot, put into the plan by priority, carried out one by one.

Rules: among equal priorities metald's own steps go first. A step that several hardware managers offer is the one that the
agent itself chose. What was asked for and is not offered fails before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from metald.config import ConfigError
from metald.drivers.boot_mode import requested_boot_mode
from metald.drivers.truth import is_true
from metald.errors import DeployError, Invalid
from metald.model import Node, PlannedStep, Port
from metald.model.masking import masked

STEPS = "agent_cached_{}_steps"
"""Where `driver_internal_info` keeps the steps of a phase, by interface."""
VERSIONS = "hardware_manager_version"
_BOOT = "agent_steps_boot"

_INTERFACES = ("vendor", "power", "management", "firmware", "deploy", "bios", "raid")
_ERASURE: Mapping[str, Any] = {
    "agent_erase_devices_iterations": 1,
    "agent_erase_devices_zeroize": True,
    "agent_erase_skip_read_only": False,
    "agent_enable_ata_secure_erase": True,
    "agent_enable_nvme_secure_erase": True,
    "agent_enable_discard_erase": False,
    "agent_continue_if_secure_erase_failed": False,
    "disk_erasure_concurrency": 4,
}
"""How disks are erased, as the agent reads it from `driver_internal_info`; a node may say otherwise in driver_info."""

Offer = dict[str, Any]


def node_for_agent(node: Node, ports: Sequence[Port]) -> dict[str, Any]:
    """The parameters `node` and `ports` of the agent's commands: every field, as the agent looks into them unasked; no secrets."""
    told = _record(node)
    erasure = {key: _like(default, node.driver_info.get(key)) for key, default in _ERASURE.items()}
    told["driver_internal_info"] = {**erasure, **told["driver_internal_info"]}
    mode = requested_boot_mode(node)
    if mode is not None:  # where the agent looks first; it does not know the instance's capabilities
        told["instance_info"] = {**told["instance_info"], "deploy_boot_mode": mode.value}
    return {"node": told, "ports": [_record(port) for port in ports]}


def _record(value: Node | Port) -> dict[str, Any]:
    found: dict[str, Any] = masked(msgspec.to_builtins(msgspec.structs.asdict(value)))
    return found


def _like(default: Any, given: Any) -> Any:
    """A value of driver_info as the agent must see it: command lines write numbers and truth as text."""
    if given is None:
        return default
    if isinstance(default, bool):
        return is_true(given)
    return int(given) if isinstance(given, str) and given.isdigit() else given


def offered(found: Mapping[str, Any], phase: str, node: Node) -> list[Offer]:
    """The steps in an agent's answer, checked.

    Raises:
        DeployError: it is not as it must be.
    """
    managers = found.get(f"{phase}_steps")
    if not isinstance(managers, Mapping):
        raise DeployError(f"Node {node.label}: the agent's answer holds no {phase}_steps.")
    steps: dict[tuple[str, str], Offer] = {}
    for listed in managers.values():
        for step in listed if isinstance(listed, list) else ():
            if not isinstance(step, dict) or not isinstance(step.get("step"), str) or step.get("interface") not in _INTERFACES:
                continue  # a step that no plan can name
            priority = step.get("priority")
            good = {**step, "priority": priority if isinstance(priority, int) and priority > 0 else 0}
            steps.setdefault((step["interface"], step["step"]), good)
    return list(steps.values())


def remembered(node: Node, phase: str, boot: str) -> list[Offer] | None:
    """The steps as they were asked for in this boot; None when they were not."""
    info = node.driver_internal_info
    known = info.get(STEPS.format(phase))
    marks = info.get(_BOOT)
    if not isinstance(known, Mapping) or not isinstance(marks, Mapping) or marks.get(phase) != boot:
        return None
    return [step for steps in known.values() for step in steps]


def to_remember(node: Node, phase: str, boot: str, offers: Sequence[Offer], versions: Any) -> dict[str, Any]:
    """`driver_internal_info` with what was asked for in this boot."""
    by_interface: dict[str, list[Offer]] = {}
    for offer in offers:
        by_interface.setdefault(offer["interface"], []).append(offer)
    info = node.driver_internal_info
    marks = {name: mark for name, mark in (info.get(_BOOT) or {}).items() if mark == boot}
    return {
        **info,
        STEPS.format(phase): by_interface,
        VERSIONS: versions if isinstance(versions, dict) else {},
        _BOOT: {**marks, phase: boot},
    }


def priorities(settings: Sequence[str]) -> dict[tuple[str, str], int]:
    """The setting `agent.clean_step_priorities`, read.

    Raises:
        ConfigError: an entry is not `interface.step:priority`.
    """
    found = {}
    for entry in settings:
        name, colon, number = entry.rpartition(":")
        interface, dot, step = name.strip().partition(".")
        if not colon or not dot or not number.strip().isdigit():
            raise ConfigError(f"agent.clean_step_priorities: {entry!r} is not interface.step:priority.")
        found[interface, step] = int(number)
    return found


def merged(
    following: Sequence[PlannedStep],
    offers: Sequence[Offer],
    phase: str,
    node: Node,
    *,
    automatic: bool,
    other: Mapping[tuple[str, str], int],
) -> list[PlannedStep]:
    """The plan from here on, with the agent's steps in it.

    Args:
        following: the plan until now.
        offers: what the agent offers.
        phase: of the plan.
        node: for errors.
        automatic: whether steps run that nobody asked for.
        other: priorities that the settings give instead of the agent's.

    Raises:
        Invalid: a step of the plan is not offered.
    """
    known = {(offer["interface"], offer["step"]): offer for offer in offers}
    plan: list[PlannedStep] = []
    for step in following:
        if step.in_band:
            offer = known.get((step.interface, step.step))
            if offer is None:
                raise Invalid(
                    f"Node {node.label}: its agent has no {phase} step {step.interface}.{step.step}.",
                    remedy=f"It offers: {', '.join(sorted(f'{i}.{s}' for i, s in known)) or 'none'}.",
                )
            step = planned(offer, phase, step.priority, step.args)
        plan.append(step)
    if automatic:
        there = {(step.interface, step.step) for step in plan}
        for key, offer in known.items():
            priority = other.get(key, offer["priority"])
            if priority > 0 and key not in there:
                at = next((number for number, step in enumerate(plan) if step.priority < priority), len(plan))
                plan.insert(at, planned(offer, phase, priority, {}))
    return plan


def planned(offer: Offer, phase: str, priority: int, args: Mapping[str, Any]) -> PlannedStep:
    """A plan's entry for a step of the agent."""
    return PlannedStep(
        interface=offer["interface"],
        step=offer["step"],
        args=dict(args),
        priority=priority,
        abortable=bool(offer.get("abortable")),
        in_band=phase,
    )


def command_step(step: PlannedStep, offers: Sequence[Offer]) -> Offer:
    """The step as the agent is told of it."""
    offer = next((one for one in offers if (one["interface"], one["step"]) == (step.interface, step.step)), {})
    return {
        **{key: value for key, value in offer.items() if key != "argsinfo"},
        "interface": step.interface,
        "step": step.step,
        "priority": step.priority,
        "args": dict(step.args),
    }
