"""The nouns: typed, frozen, without input or output."""

from __future__ import annotations

from metald.entropy import new_uuid
from metald.model.event import Event
from metald.model.internals import BiosSetting, FirmwareComponent, Internals
from metald.model.node import Chassis, Conductor, Json, Node, Port
from metald.model.resource import Resource, now
from metald.model.states import INTERFACES, BootDevice, BootMode, Fault, PowerState, PowerTarget, ProvisionState, Verb
from metald.model.workflow import PlannedStep, StepRecord, Workflow, WorkflowKind, WorkflowState

__all__ = [
    "INTERFACES",
    "BiosSetting",
    "BootDevice",
    "BootMode",
    "Chassis",
    "Conductor",
    "Event",
    "Fault",
    "FirmwareComponent",
    "Internals",
    "Json",
    "Node",
    "PlannedStep",
    "Port",
    "PowerState",
    "PowerTarget",
    "ProvisionState",
    "Resource",
    "StepRecord",
    "Verb",
    "Workflow",
    "WorkflowKind",
    "WorkflowState",
    "new_uuid",
    "now",
]
