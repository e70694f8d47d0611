"""Teardown: from any deployed or half-deployed state through cleaning to available."""

from __future__ import annotations

from metald.config import Conductor as Settings
from metald.drivers.registry import Registry
from metald.model import Node, PlannedStep, ProvisionState, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields
from metald.statemachine.plan import core
from metald.statemachine.workflows import clean


def _failed(node: Node, workflow: Workflow) -> Fields:
    return clean.failed(node, workflow) if node.provision_state is ProvisionState.CLEANING else {}


DEFINITION = Definition(kind=WorkflowKind.TEARDOWN, done=clean.done, step_field="clean_step", failed=_failed, cleanup=clean.cleanup)


def plan(registry: Registry, node: Node, settings: Settings) -> list[PlannedStep]:
    """The steps of a teardown, cleaning included."""
    return [
        core("deploy", "tear_down"),
        core("power", "power_off"),
        core("boot", "clean_up_ramdisk"),
        core("boot", "clean_up_instance"),
        core("network", "remove_provisioning_network"),
        core("network", "unconfigure_tenant_networks"),
        core("deploy", "begin_cleaning"),
        *clean.plan(registry, node, settings),
    ]
