"""Deploy: available to active. Checks everything that can be known before the machine is touched, then boots the ramdisk,
writes the image, and hands over a running machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from metald.config import Conductor as Settings
from metald.drivers.base import Deploy, Phase
from metald.drivers.registry import Registry
from metald.errors import Invalid
from metald.model import Node, PlannedStep, Workflow, WorkflowKind
from metald.statemachine.definition import Definition
from metald.statemachine.plan import core, offered, ordered, planned, ramdisk_up, requested, reused


def cleanup(node: Node, workflow: Workflow) -> list[PlannedStep]:  # noqa: ARG001
    """Power the machine off and take the ramdisk away, if it came that far."""
    touched = any(s.step in ("prepare_ramdisk", "set_boot_device") for s in workflow.steps[: workflow.cursor + 1])
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
    if deploy.netboots:
        return _netbooted(node, deploy, body)
    up = ramdisk_up("deploy", settings.deploy_callback_timeout, ask=Phase.DEPLOY if deploy.in_band else None, automatic=True)
    before = [s for s in body if not s.requires_ramdisk and s.priority > 100]
    rest = [s for s in body if s not in before]
    return [
        core("deploy", "prepare"),
        *before,
        *reused(deploy, up),
        *rest,
        core("power", "power_off"),
        core("boot", "clean_up_ramdisk"),
        core("network", "remove_provisioning_network"),
        core("network", "configure_tenant_networks"),
        core("boot", "prepare_instance"),
        core("power", "power_on"),
    ]


def _netbooted(node: Node, deploy: Deploy, body: Sequence[PlannedStep]) -> list[PlannedStep]:
    """The steps of an instance that boots from the network, or of an installer that does.

    Raises:
        Invalid: a step is asked for that needs the ramdisk, which no such deployment boots.
    """
    needy = next((step for step in body if step.requires_ramdisk), None)
    if needy is not None:
        raise Invalid(
            f"Node {node.label}: step {needy.interface}.{needy.step} needs a ramdisk, and deploy interface {deploy.name} boots none.",
            remedy="Leave it away, or use another deploy interface.",
            field="deploy_steps",
        )
    # An installer is booted once; an instance on the network every time.
    up = [core("boot", "prepare_instance"), core("management", "set_boot_device", device="pxe", persistent=not deploy.installs)]
    if not deploy.installs:
        off, tenant = core("power", "power_off"), core("network", "configure_tenant_networks")
        return [core("deploy", "prepare"), *body, off, tenant, *up, core("power", "power_on")]
    return [
        core("deploy", "prepare"),
        *body,
        core("power", "power_off"),
        core("network", "add_provisioning_network"),
        *up,
        core("power", "power_on"),
        core("deploy", "install"),
        core("power", "power_off"),
        core("network", "remove_provisioning_network"),
        core("network", "configure_tenant_networks"),
        core("boot", "prepare_instance"),
        core("management", "set_boot_device", device="disk", persistent=True),
        core("power", "power_on"),
    ]
