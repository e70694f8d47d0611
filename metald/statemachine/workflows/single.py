"""Inspect, adopt, rescue and unrescue: one step of one interface, and the boots of a ramdisk or the instance that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import msgspec

from metald.config import Settings
from metald.drivers.base import Deploy, Inspect, Rescue
from metald.drivers.noop import Absent
from metald.drivers.registry import Registry
from metald.errors import Unsupported
from metald.model import Node, PlannedStep, Verb, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields
from metald.statemachine.plan import core, ramdisk_down, ramdisk_up

PASSWORDS = ("rescue_password", "hashed_rescue_password")


def _forgotten(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    """A password that nobody will set is not kept."""
    return {"instance_info": {key: value for key, value in node.instance_info.items() if key not in PASSWORDS}}


def _down(node: Node, workflow: Workflow) -> list[PlannedStep]:  # noqa: ARG001
    """Take the ramdisk away, if the machine was started for it."""
    begun = any(step.step in ("prepare_ramdisk", "power_on") for step in workflow.steps[: workflow.cursor + 1])
    return ramdisk_down() if begun else []


DEFINITIONS: tuple[Definition, ...] = (
    Definition(kind=WorkflowKind.INSPECT, cleanup=_down),
    Definition(kind=WorkflowKind.ADOPT),
    Definition(kind=WorkflowKind.RESCUE, cleanup=_down, failed=_forgotten),
    Definition(kind=WorkflowKind.UNRESCUE),
)

_STEPS: Mapping[Verb, tuple[str, str]] = MappingProxyType(
    {
        Verb.INSPECT: ("inspect", "inspect_hardware"),
        Verb.ADOPT: ("deploy", "adopt"),
        Verb.RESCUE: ("rescue", "rescue"),
        Verb.UNRESCUE: ("rescue", "unrescue"),
    }
)


def plan(registry: Registry, node: Node, settings: Settings, verb: Verb) -> list[PlannedStep]:
    """The step that the verb stands for, with what has to be booted for it.

    Raises:
        Unsupported: the node's interface cannot do it.
    """
    interface, step = _STEPS[verb]
    if isinstance(registry.for_node(node, interface), Absent):
        raise Unsupported(f"Driver {node.driver} does not support {verb.value} (disabled or not implemented).", field="target")
    match verb:
        case Verb.INSPECT:
            stays = cast(Deploy, registry.for_node(node, "deploy")).fast_track
            return _inspection(cast(Inspect, registry.for_node(node, "inspect")), settings, stays=stays)
        case Verb.RESCUE if cast(Rescue, registry.for_node(node, "rescue")).in_ramdisk:
            return _rescue(settings)
        case Verb.UNRESCUE if cast(Rescue, registry.for_node(node, "rescue")).in_ramdisk:
            return _unrescue()
    return [core(interface, step)]


def _inspection(interface: Inspect, settings: Settings, *, stays: bool) -> list[PlannedStep]:
    work = core("inspect", "inspect_hardware", options=msgspec.to_builtins(settings.inspection))
    if not interface.in_ramdisk:
        return [work]
    timeout, required = settings.conductor.inspect_timeout, settings.inspection.require_managed_boot
    return [core("inspect", "boot", timeout=timeout, required=required), work, *([] if stays and interface.agent else ramdisk_down())]


def _rescue(settings: Settings) -> list[PlannedStep]:
    up = ramdisk_up("rescue", settings.conductor.rescue_callback_timeout, of="rescue")
    return [up[0], core("boot", "clean_up_instance"), core("network", "unconfigure_tenant_networks"), *up[1:], core("rescue", "rescue")]


def _unrescue() -> list[PlannedStep]:
    return [
        *ramdisk_down(),
        core("network", "configure_tenant_networks"),
        core("boot", "prepare_instance"),
        core("rescue", "unrescue"),
        core("power", "power_on"),
    ]
