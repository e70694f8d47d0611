"""Hardware: one thing done to a node's machine that a client asked for: a vendor method, console, boot mode, secure boot,
virtual media. Moves no provision state.

It may run while another workflow of the node waits for its ramdisk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from metald.model import Node, PlannedStep, Workflow, WorkflowKind
from metald.statemachine.definition import Definition, Fields

_WORDS: Mapping[str, Callable[[Mapping[str, Any], str], str]] = MappingProxyType(
    {
        "call_vendor": lambda args, _node: f"Vendor method {args['method']} failed",
        "switch_console": lambda args, node: f"Error {'enabling' if args['enabled'] else 'disabling'} the console on node {node}. Reason",
        "set_boot_mode": lambda args, _node: f"Failed to change boot mode to '{args['mode']}'",
        "set_secure_boot": lambda args, _node: f"Failed to change secure_boot state to '{args['on']}'",
        "attach_virtual_media": lambda args, node: f"Could not attach device {args['device']} to node {node}",
        "detach_virtual_media": lambda args, node: (
            f"Could not detach {'device(s) ' + ', '.join(args['devices']) if args['devices'] else 'devices'} from node {node}"
        ),
    }
)


def _succeeded(node: Node, workflow: Workflow) -> Fields:
    return {"last_error": node.last_error} if workflow.steps[0].step == "call_vendor" else {}


def _failed(node: Node, workflow: Workflow) -> Fields:
    step = workflow.steps[0]
    cause = str(workflow.memo.get("failure", {}).get("text") or "").removeprefix(f"Failed at step {step.interface}.{step.step}: ")
    return {"last_error": f"{_WORDS[step.step](step.args, node.uuid)}: {cause}"}


DEFINITION = Definition(kind=WorkflowKind.HARDWARE, done=lambda _node, _workflow: None, fail=None, succeeded=_succeeded, failed=_failed)


def plan(interface: str, step: str, **args: Any) -> list[PlannedStep]:
    """The one step."""
    return [PlannedStep(interface=interface, step=step, args=args, requires_ramdisk=False)]
