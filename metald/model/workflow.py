"""Workflow and its journal: what metald has promised to do to a node, and how far it is."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from metald.model.resource import Resource, now


class WorkflowKind(StrEnum):
    """The runs that metald knows."""

    VERIFY = "verify"
    CLEAN = "clean"
    DEPLOY = "deploy"
    TEARDOWN = "teardown"
    POWER = "power"
    INSPECT = "inspect"
    ADOPT = "adopt"
    RESCUE = "rescue"
    UNRESCUE = "unrescue"
    SERVICE = "service"
    HARDWARE = "hardware"
    """One thing done to the machine that a client asked for, such as a vendor method; moves no provision state."""


class WorkflowState(StrEnum):
    """Where a workflow is."""

    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (WorkflowState.DONE, WorkflowState.FAILED, WorkflowState.ABORTED)


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One step of a plan: which method of which interface, with what arguments."""

    interface: str
    step: str
    args: dict[str, Any] = {}
    priority: int = 0
    abortable: bool = False
    requires_ramdisk: bool = True
    in_band: str = ""
    """The phase (`clean`, `deploy`, `service`) of a step that the agent in the ramdisk carries out; empty for all others."""


class Workflow(Resource, frozen=True, kw_only=True):
    """A durable run of planned steps over one node."""

    node_uuid: str
    kind: WorkflowKind
    state: WorkflowState = WorkflowState.RUNNING
    steps: list[PlannedStep] = []
    cursor: int = 0
    """Index of the step that runs or waits; equals `len(steps)` at the end."""
    attempt: int = 1
    """Which try of the present step this is; 1 for the first."""
    memo: dict[str, Any] = {}
    """What later steps and later tries need to know; durable with every boundary."""
    wait_for: str | None = None
    deadline: datetime | None = None
    """When a waiting workflow gives up, or a retry is due."""
    started_at: datetime = msgspec.field(default_factory=now)
    ended_at: datetime | None = None
    cause: str | None = None
    """Machine-readable error code of a failed workflow, from `errors.py`."""
    last_error: str | None = None
    abort_requested: bool = False
    requested_by: str = "system"
    request_id: str | None = None
    fence: int = 1


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the journal: a step began, ended, waited or failed. Never changed once written."""

    workflow_uuid: str
    node_uuid: str
    cursor: int
    attempt: int
    interface: str
    step: str
    outcome: str
    """`done`, `wait`, `retry`, `failed`, `aborted`."""
    started_at: datetime
    ended_at: datetime
    detail: str = ""
