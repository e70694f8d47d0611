"""Rows that tests store."""

from __future__ import annotations

from typing import Any

from metald.model import Node, StepRecord, Workflow, now


def node(name: str | None = None, **fields: Any) -> Node:
    return Node(driver="fake-hardware", name=name, **fields)


def record(workflow: Workflow, cursor: int = 0, **fields: Any) -> StepRecord:
    values: dict[str, Any] = {
        "interface": "deploy",
        "step": "write",
        "outcome": "done",
        "started_at": now(),
        "ended_at": now(),
        "attempt": 1,
    }
    return StepRecord(workflow_uuid=workflow.uuid, node_uuid=workflow.node_uuid, cursor=cursor, **(values | fields))
