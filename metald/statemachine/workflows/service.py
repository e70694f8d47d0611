"""Service: work on a machine that keeps its instance, through the steps asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from metald.config import Conductor as Settings
from metald.drivers.base import Deploy, Phase
from metald.drivers.registry import Registry
from metald.model import Fault, Node, PlannedStep, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields
from metald.statemachine.plan import core, ramdisk_down, ramdisk_up, requested, without_ramdisk
from metald.statemachine.workflows.clean import cleanup, unfinished


def _failed(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    return unfinished(workflow, Fault.SERVICE)


DEFINITION = Definition(kind=WorkflowKind.SERVICE, step_field="service_step", failed=_failed, cleanup=cleanup)


def plan(
    registry: Registry, node: Node, settings: Settings, steps: Sequence[Mapping[str, Any]], *, disable_ramdisk: bool
) -> list[PlannedStep]:
    """The steps of a service, in the client's order, and the ramdisk around them that they need.

    Raises:
        Invalid: a step is not offered or its arguments are wrong.
    """
    chosen = requested(registry, node, Phase.SERVICE, steps, "service_steps")
    deploy = cast(Deploy, registry.for_node(node, "deploy"))
    if disable_ramdisk:
        return without_ramdisk(chosen, "service_steps")
    if not deploy.uses_ramdisk or not any(s.requires_ramdisk for s in chosen):
        return chosen
    up = ramdisk_up("service", settings.deploy_callback_timeout, ask=Phase.SERVICE if deploy.in_band else None)
    return [*up, *chosen, *ramdisk_down(), core("boot", "prepare_instance"), core("power", "power_on")]
