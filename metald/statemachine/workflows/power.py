"""Power: one change of a machine's power that a client asked for. Moves no provision state."""

from __future__ import annotations

from metald.model import Node, PlannedStep, PowerTarget, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields
from metald.statemachine.plan import core


def _succeeded(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    return {"target_power_state": None}


def _failed(node: Node, workflow: Workflow) -> Fields:  # noqa: ARG001
    target = workflow.steps[0].args["target"] if workflow.steps else ""
    cause = workflow.memo.get("failure", {}).get("text") or workflow.last_error or ""
    return {"target_power_state": None, "last_error": f"Failed to change power state to '{target}': {cause}"}


DEFINITION = Definition(kind=WorkflowKind.POWER, done=lambda _node, _workflow: None, fail=None, succeeded=_succeeded, failed=_failed)


def plan(target: PowerTarget, timeout: float | None) -> list[PlannedStep]:
    """The steps of a power change.

    Args:
        target: what the client asked for.
        timeout: seconds that it may take; the driver's own when None.
    """
    return [core("power", "change", target=target.value, timeout=timeout)]
