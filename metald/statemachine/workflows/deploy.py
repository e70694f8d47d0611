"""Deploy: available to active. Checks everything that can be known before the machine is touched, then boots the ramdisk,
writes the image, and hands over a running machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from metald.config import Conductor as Settings
from metald.drivers.base import Deploy, Phase
from metald.drivers.registry import Registry
from metald.model import Node, PlannedStep, Workflow, WorkflowKind
from metald.statemachine.definition import Definition
from metald.statemachine.plan import core, offered, ordered, planned, ramdisk_up, requested


def cleanup(node: Node, workflow: Workflow) -> list[PlannedStep]:  # noqa: ARG001
    """Power the machine off and take the ramdisk away, if it came that far."""
    touched = any(s.step == "prepare_ramdisk" for s in workflow.steps[: workflow.cursor + 1])
    if not touched:
        return []
    return [core("power", "power_off"), core("boot", "clean_up_ramdisk"), core("network", "remove_provisioning_network")]


DEFINITION = Definition(kind=WorkflowKind.DEPLOY, step_field="deploy_step", cleanup=cleanup)


def plan(registry: Registry, node: Node, settings: Settings, deploy_steps: Sequence[Mapping[str, Any]] | None = None) -> list[PlannedStep]:
    """The steps of a deployment.

    Args:
        registry: hardware types and interfaces.
        node: which node.
        settings: timeouts.
        deploy_steps: further steps, or other priorities and arguments of offered ones; priority 0 leaves a step out.

    Raises:
        Invalid: a step is not offered or its arguments are wrong.
    """
    specs = [s for s in offered(registry, node, Phase.DEPLOY).values() if s.priority > 0]
    steps = {(s.interface, s.step): planned(s) for s in ordered(specs)}
    for step in requested(registry, node, Phase.DEPLOY, deploy_steps or (), "deploy_steps"):
        steps[step.interface, step.step] = step
    body = sorted((s for s in steps.values() if s.priority > 0), key=lambda s: -s.priority)
    deploy = cast(Deploy, registry.for_node(node, "deploy"))
    if not deploy.uses_ramdisk:
        return [core("deploy", "prepare"), *body, core("boot", "prepare_instance"), core("power", "power_on")]
    before = [s for s in body if not s.requires_ramdisk and s.priority > 100]
    rest = [s for s in body if s not in before]
    return [
        core("deploy", "prepare"),
        *before,
        *ramdisk_up("deploy", settings.deploy_callback_timeout, ask=Phase.DEPLOY if deploy.in_band else None, automatic=True),
        *rest,
        core("power", "power_off"),
        core("boot", "clean_up_ramdisk"),
        core("network", "remove_provisioning_network"),
        core("network", "configure_tenant_networks"),
        core("boot", "prepare_instance"),
        core("power", "power_on"),
    ]
