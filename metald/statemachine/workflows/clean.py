"""Clean: manageable to available through the automatic steps, or back to manageable through the steps asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from metald.config import Conductor as Settings
from metald.drivers.base import Deploy, Phase
from metald.drivers.registry import Registry
from metald.model import Fault, Node, PlannedStep, ProvisionState, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields
from metald.statemachine.plan import automatic, ramdisk_down, ramdisk_up, requested, reused, without_ramdisk


def unfinished(workflow: Workflow, fault: Fault) -> Fields:
    """Maintenance for a node whose machine was left in an unknown condition: a driver's step failed, and nobody aborted it."""
    failure = workflow.memo.get("failure", {})
    if failure.get("code") == "aborted" or not failure.get("drivers"):
        return {}
    return {"maintenance": True, "maintenance_reason": failure["text"], "fault": fault}


def failed(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    """What a failed cleaning leaves on the node."""
    return unfinished(workflow, Fault.CLEAN)


def done(node: Node, workflow: Workflow) -> str:  # noqa: ARG001
    """A manual cleaning goes back to manageable, an automatic one on to available."""
    return "manage" if node.target_provision_state is ProvisionState.MANAGEABLE else "done"


def cleanup(node: Node, workflow: Workflow) -> list[PlannedStep]:  # noqa: ARG001
    """Take the ramdisk away again, if one was prepared."""
    prepared = any(s.step == "prepare_ramdisk" for s in workflow.steps[: workflow.cursor + 1])
    return ramdisk_down() if prepared else []


DEFINITION = Definition(kind=WorkflowKind.CLEAN, done=done, step_field="clean_step", failed=failed, cleanup=cleanup)


def wrapped(registry: Registry, node: Node, steps: list[PlannedStep], settings: Settings, *, automatic: bool = False) -> list[PlannedStep]:
    """Steps with the ramdisk around them that they need, or that may have steps of its own to add."""
    deploy = cast(Deploy, registry.for_node(node, "deploy"))
    if not (deploy.uses_ramdisk and ((automatic and deploy.in_band) or any(s.requires_ramdisk for s in steps))):
        return steps
    ask = Phase.CLEAN if deploy.in_band else None
    up = reused(deploy, ramdisk_up("clean", settings.clean_callback_timeout, ask=ask, automatic=automatic))
    return [*up, *steps, *([] if deploy.fast_track else ramdisk_down())]


def automated(node: Node, settings: Settings) -> bool:
    """Whether this node is cleaned between instances."""
    return settings.automated_clean if node.automated_clean is None else node.automated_clean


def plan(registry: Registry, node: Node, settings: Settings) -> list[PlannedStep]:
    """The steps of an automated cleaning; none when it is turned off."""
    if not automated(node, settings):
        return []
    return wrapped(registry, node, automatic(registry, node, Phase.CLEAN), settings, automatic=True)


def plan_manual(
    registry: Registry, node: Node, settings: Settings, steps: Sequence[Mapping[str, Any]], *, disable_ramdisk: bool
) -> list[PlannedStep]:
    """The steps of a manual cleaning, in the client's order.

    Raises:
        Invalid: a step is not offered or its arguments are wrong.
    """
    chosen = requested(registry, node, Phase.CLEAN, steps, "clean_steps")
    return without_ramdisk(chosen, "clean_steps") if disable_ramdisk else wrapped(registry, node, chosen, settings)
