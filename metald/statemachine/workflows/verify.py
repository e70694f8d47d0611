"""Verify: enroll to manageable. The BMC answers, the power state is known."""

from __future__ import annotations

from metald.drivers.base import Phase
from metald.drivers.registry import Registry
from metald.model import Node, PlannedStep, WorkflowKind
from metald.statemachine.definition import Definition
from metald.statemachine.plan import automatic, core

DEFINITION = Definition(kind=WorkflowKind.VERIFY)


def plan(registry: Registry, node: Node) -> list[PlannedStep]:
    """The steps of a verification."""
    return [core("power", "verify"), *automatic(registry, node, Phase.VERIFY)]
