"""What distinguishes one kind of workflow from another: which events end it, and what it leaves on the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metald.model import Node, PlannedStep, Workflow, WorkflowKind

Fields = dict[str, Any]


def _nothing(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    return {}


def _no_steps(node: Node, workflow: Workflow) -> list[PlannedStep]:  # noqa: ARG001
    return []


@dataclass(frozen=True, slots=True)
class Definition:
    """One kind of workflow.

    Args:
        kind: which.
        done: the event that a success fires, given the node and the workflow; None moves no provision state.
        fail: the event that a failure fires; None moves no provision state.
        step_field: the node's field that shows the present step.
        succeeded: further fields of the node after a success.
        failed: further fields of the node after a failure.
        cleanup: steps that run after a failure or an abort, each at its best.
    """

    kind: WorkflowKind
    done: Callable[[Node, Workflow], str | None] = lambda _node, _workflow: "done"
    fail: str | None = "fail"
    step_field: str | None = None
    succeeded: Callable[[Node, Workflow], Fields] = _nothing
    failed: Callable[[Node, Workflow], Fields] = _nothing
    cleanup: Callable[[Node, Workflow], list[PlannedStep]] = _no_steps
