"""Which fields of a node each kind of workflow reads, as data.

A client's change collides with a running workflow only over such a field: everything else may change at any time. Fields
that only planning looks at (`automated_clean`) are read before the workflow exists. A field stands here also where one driver
alone reads it, so that no machine is treated by two minds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from metald.model import INTERFACES, Workflow, WorkflowKind

_ACCESS = frozenset({"driver", "driver_info", "disable_power_off", "power_interface", "management_interface", "vendor_interface"})
_MACHINE = _ACCESS | {"properties", *(f"{kind}_interface" for kind in INTERFACES)}
_BOOTED = _MACHINE | {"instance_info"}
"""Boot mode and kernel parameters come from `instance_info` too, also where a ramdisk boots for another purpose."""
_INSTANCE = _BOOTED | {"instance_uuid", "network_data"}

READS: Mapping[WorkflowKind, frozenset[str]] = MappingProxyType(
    {
        WorkflowKind.POWER: _ACCESS,
        WorkflowKind.VERIFY: _MACHINE,
        WorkflowKind.HARDWARE: _BOOTED,
        WorkflowKind.CLEAN: _BOOTED,
        WorkflowKind.INSPECT: _BOOTED,
        WorkflowKind.ADOPT: _INSTANCE,
        WorkflowKind.DEPLOY: _INSTANCE,
        WorkflowKind.TEARDOWN: _INSTANCE,
        WorkflowKind.RESCUE: _INSTANCE,
        WorkflowKind.UNRESCUE: _INSTANCE,
        WorkflowKind.SERVICE: _INSTANCE,
    }
)

ANY: frozenset[str] = frozenset().union(*READS.values())
"""Fields that some workflow reads."""


def read_by(workflows: Iterable[Workflow]) -> frozenset[str]:
    """The fields that these workflows read, as far as they have not ended."""
    return frozenset().union(*(READS[workflow.kind] for workflow in workflows if not workflow.state.ended))


def markdown() -> str:
    """docs/reference/reads.md."""
    lines = [
        "# Which fields a workflow reads",
        "",
        "Made from `metald/statemachine/reads.py` by `make generate`.",
        "",
        "While one of these workflows is under way, a change of a field that it reads waits up to `api.lock_wait` seconds and then",
        "answers 409. Every other field of the node may change at any time.",
        "",
        "| field | " + " | ".join(kind.value for kind in READS) + " |",
        "| --- |" + " --- |" * len(READS),
    ]
    lines += [f"| `{field}` | " + " | ".join("reads" if field in names else "" for names in READS.values()) + " |" for field in sorted(ANY)]
    return "\n".join(lines) + "\n"
