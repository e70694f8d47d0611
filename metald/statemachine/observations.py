"""What there is to tell of a workflow's changes beside the move of the provision state and the end of a step.

Rule: whatever wrote it, a change of a node's power, maintenance or console is told in the transaction that makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metald.model import Event, Node, Workflow


def of_step(workflow: Workflow) -> list[Event]:
    """Tell of the step that begins, when a workflow has come to another one; nothing after the last."""
    if workflow.state.ended or workflow.cursor >= len(workflow.steps):
        return []
    step = workflow.steps[workflow.cursor]
    return [
        Event(
            type="node.step_begun",
            node_uuid=workflow.node_uuid,
            subject=workflow.uuid,
            user=workflow.requested_by,
            data={
                "kind": workflow.kind,
                "interface": step.interface,
                "step": step.step,
                "place": workflow.cursor + 1,
                "steps": len(workflow.steps),
            },
        )
    ]


def of_changes(node: Node, changes: Mapping[str, Any], workflow: Workflow) -> Iterator[Event]:
    """Tell of what a workflow saw or did to a node's power, maintenance or console.

    Args:
        node: as it was.
        changes: the fields that are written.
        workflow: who writes them.
    """

    def fact(kind: str, severity: str = "INFO", /, **data: Any) -> Event:
        return Event(type=kind, node_uuid=node.uuid, severity=severity, user=workflow.requested_by, data=data)

    after = {name: changes.get(name, getattr(node, name)) for name in ("power_state", "maintenance", "fault", "console_enabled")}
    if after["power_state"] != node.power_state:
        wanted = changes.get("driver_internal_info", node.driver_internal_info).get("power_wanted")
        who = {"wanted": wanted, "workflow": workflow.uuid, "kind": workflow.kind}
        yield fact("node.power_seen", **{"from": node.power_state, "to": after["power_state"], **who})
    if after["maintenance"] != node.maintenance or after["fault"] != node.fault:
        yield fact(
            "node.maintenance",
            "ERROR" if after["fault"] is not None else "INFO",
            maintenance=after["maintenance"],
            reason=changes.get("maintenance_reason", node.maintenance_reason),
            fault=after["fault"],
        )
    if after["console_enabled"] != node.console_enabled:
        yield fact("node.console", enabled=after["console_enabled"])
