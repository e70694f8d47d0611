"""The kinds of workflow: for each a plan, and what its end means for the node."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metald.model import WorkflowKind
from metald.statemachine.definition import Definition
from metald.statemachine.workflows import clean, deploy, hardware, power, service, single, teardown, verify

DEFINITIONS: Mapping[WorkflowKind, Definition] = MappingProxyType(
    {
        d.kind: d
        for d in (
            verify.DEFINITION,
            clean.DEFINITION,
            deploy.DEFINITION,
            teardown.DEFINITION,
            power.DEFINITION,
            service.DEFINITION,
            hardware.DEFINITION,
            *single.DEFINITIONS,
        )
    }
)
"""Every kind of workflow."""
