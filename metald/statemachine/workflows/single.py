"""Workflows whose work is one step of one interface: inspect, adopt, rescue, unrescue."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from metald.config import Settings
from metald.drivers.noop import Absent
from metald.drivers.registry import Registry
from metald.errors import Unsupported
from metald.model import Node, PlannedStep, Verb, WorkflowKind
from metald.statemachine.definition import Definition
from metald.statemachine.plan import core

DEFINITIONS: tuple[Definition, ...] = tuple(
    Definition(kind=kind) for kind in (WorkflowKind.INSPECT, WorkflowKind.ADOPT, WorkflowKind.RESCUE, WorkflowKind.UNRESCUE)
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
    """The step that the verb stands for.

    Raises:
        Unsupported: the node's interface cannot do it.
    """
    interface, step = _STEPS[verb]
    if isinstance(registry.for_node(node, interface), Absent):
        raise Unsupported(f"Driver {node.driver} does not support {verb.value} (disabled or not implemented).", field="target")
    args = {"options": msgspec.to_builtins(settings.inspection)} if verb is Verb.INSPECT else {}
    return [core(interface, step, **args)]
