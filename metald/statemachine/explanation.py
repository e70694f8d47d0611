"""Why a node is not available, or cannot be deployed: every cause in a sentence, with a code and a remedy.

Pure: what is known of a node goes in, causes come out. The guards are those that also refuse (`admission`, the table, the
allocations' rule), so that an explanation never says other than a refusal would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from metald.limits import Waiting
from metald.model import Node, PowerState, Verb, Workflow, WorkflowState
from metald.model import ProvisionState as P
from metald.model.masking import mask_text
from metald.statemachine.table import EDGES, FAILED, STABLE, Table

AVAILABILITY = "availability"
DEPLOYMENT = "deployment"

CODES: Mapping[str, str] = MappingProxyType(
    {
        "state": "The provision state is one from which nothing is deployed.",
        "running": "A workflow drives the node.",
        "waiting": "A workflow waits for something: a ramdisk, a time, another try.",
        "queued": "A workflow waits for a resource that others use just now.",
        "held": "A workflow was paused by a step `hold`.",
        "locked": "The node is reserved without a workflow that could be named.",
        "power-changing": "A change of power is under way.",
        "power-unknown": "Nobody has read the power state yet.",
        "power-error": "The last change of power failed.",
        "maintenance": "The node is out of service.",
        "fault": "metald itself took the node out of service.",
        "retired": "The node is to leave the fleet.",
        "protected": "The instance must not be removed.",
        "claimed": "An instance or an allocation has the node.",
        "no-resource-class": "No allocation can match the node.",
        "settings": "An interface lacks a setting, or has a wrong one.",
        "no-conductor": "No conductor serves the node's conductor group.",
        "last-error": "The last workflow failed.",
    }
)
"""Every code of a cause."""

_MEANINGS: Mapping[P, str] = MappingProxyType(
    {
        P.ENROLL: "It was enrolled and nobody has checked yet that its BMC answers",
        P.VERIFYING: "Its BMC is being checked",
        P.MANAGEABLE: "Its BMC answers, and nobody has offered it for deployment yet",
        P.CLEAN_FAILED: "Its cleaning failed",
        P.INSPECT_FAILED: "Its inspection failed",
        P.DEPLOY_FAILED: "Its deployment failed",
        P.ACTIVE: "It runs an instance",
        P.ERROR: "Removing its instance failed",
        P.ADOPT_FAILED: "Taking it over with its instance failed",
        P.RESCUE: "It runs a rescue ramdisk in place of its instance",
        P.RESCUE_FAILED: "Booting its rescue ramdisk failed",
        P.UNRESCUE_FAILED: "Booting its instance again failed",
        P.SERVICE_FAILED: "Its servicing failed",
    }
)


class Cause(NamedTuple):
    """One reason."""

    code: str
    text: str
    remedy: str
    blocks: tuple[str, ...] = (AVAILABILITY, DEPLOYMENT)
    field: str | None = None
    since: datetime | None = None


_HELD = frozenset(state for state in P if state.value.endswith(" hold"))
_ASIDE = ("fail", "abort", "hold", "wait", "adopt", "rescue", "service", "inspect")


def way(node: Node, goal: P) -> list[Verb]:
    """The verbs that lead a node to a state when every workflow succeeds; empty when it goes there by itself, or is there."""
    state, target = node.provision_state, node.target_provision_state
    if state in STABLE | FAILED or target is None:
        return _way(state, goal)
    return [*([Verb.UNHOLD] if state in _HELD else []), *_way(target, goal)]


def _way(state: P, goal: P) -> list[Verb]:
    """Breadth first by verbs: what workflows do by themselves costs nothing."""
    table = Table()
    pending: deque[tuple[P, tuple[Verb, ...]]] = deque([(state, ())])
    seen: set[P] = set()
    while pending:
        at, verbs = pending.popleft()
        if at is goal:
            return list(verbs)
        if at in seen:
            continue
        seen.add(at)
        for edge in EDGES:
            if edge.source is not at or edge.event in _ASIDE:
                continue
            asked = edge.event in table.verbs(at)
            if not asked and at not in STABLE | FAILED:
                pending.appendleft((edge.target, verbs))
            elif asked and at in STABLE | FAILED and edge.event != Verb.CLEAN:
                pending.append((edge.target, (*verbs, Verb(edge.event))))
    return []


def of_state(node: Node) -> Iterator[Cause]:
    """What the provision state says."""
    state = node.provision_state
    if state is P.AVAILABLE:
        return
    verbs = way(node, P.AVAILABLE)
    text = _MEANINGS.get(state, f"It is on its way to {node.target_provision_state or 'its next state'}")
    asked = ", then ".join(verb.value for verb in verbs)
    if state in (P.ACTIVE, P.RESCUE):
        remedy = f"Ask for {asked} when the instance is not needed any more: that removes it."
    else:
        remedy = f"Ask for {asked}." if asked else "Wait: its workflow leads on by itself."
    since = node.provision_updated_at
    yield Cause("state", f"{text} (provision state {state.value}).", remedy, field="provision_state", since=since)


def of_workflow(node: Node, workflow: Workflow | None) -> Iterator[Cause]:
    """What is being done to it."""
    if workflow is None or workflow.state.ended:
        if node.reservation is not None:
            text = f"It is reserved by conductor {node.reservation}."
            yield Cause("locked", text, "Wait a moment; the reservation ends with what holds it.", field="reservation")
        return
    step = workflow.steps[workflow.cursor] if workflow.cursor < len(workflow.steps) else None
    at = f"step {workflow.cursor + 1} of {len(workflow.steps)}, {step.interface}.{step.step}" if step else "its end"
    who = f"A {workflow.kind.value} that {workflow.requested_by} asked for"
    since = workflow.updated_at or workflow.started_at
    if workflow.state is not WorkflowState.WAITING:
        again = f", try {workflow.attempt}" if workflow.attempt > 1 else ""
        yield Cause("running", f"{who} is at {at}{again}.", "Wait until it ends; see its progress and its time-line.", since=since)
    elif workflow.wait_for == "unhold":
        yield Cause("held", f"{who} is paused at {at}.", "Ask for unhold, or for abort.", since=since)
    else:
        until = f" until {workflow.deadline:%Y-%m-%d %H:%M:%S} UTC" if workflow.deadline else ""
        reason = "the next try" if workflow.wait_for == "retry" else workflow.memo.get("waiting") or workflow.wait_for
        yield Cause("waiting", f"{who} waits at {at} for {reason}{until}.", "Look at the machine's console, or ask for abort.", since=since)


def of_queue(waiting: Waiting) -> Cause:
    """What it waits for among others."""
    text = f"Its workflow waits for {waiting.what}; {waiting.ahead} that came before wait as well."
    remedy = f"Wait: it goes on by itself. {waiting.setting} says how much there is for all nodes together."
    return Cause("queued", text, remedy, since=waiting.since)


def of_power(node: Node) -> Iterator[Cause]:
    """What its power says."""
    if node.target_power_state is not None:
        text = f"Its power is being changed to {node.target_power_state}."
        yield Cause("power-changing", text, "Wait until it is done.", field="target_power_state")
    if node.power_state is None and node.provision_state not in (P.ENROLL, P.VERIFYING):
        text = "Its power state is not known, so no allocation takes it."
        yield Cause("power-unknown", text, "Wait for the next look at its power, or set its power.", (AVAILABILITY,), "power_state")
    if node.power_state is PowerState.ERROR:
        yield Cause(
            "power-error", "The last change of its power failed.", "Look at its BMC, then set its power again.", field="power_state"
        )


def of_flags(node: Node) -> Iterator[Cause]:
    """What operators, or metald itself, have set."""
    if node.maintenance:
        said = f": {mask_text(node.maintenance_reason)}" if node.maintenance_reason else ", without a reason given"
        if node.fault:
            remedy = "Mend the machine; a power failure ends by itself once the BMC answers, others when maintenance is cleared."
            yield Cause("fault", f"metald took it out of service after a {node.fault}{said}.", remedy, field="fault")
        else:
            yield Cause("maintenance", f"It is in maintenance{said}.", "Clear the maintenance when it is mended.", field="maintenance")
    if node.retired:
        said = f": {node.retired_reason}" if node.retired_reason else ""
        yield Cause("retired", f"It is retired{said}, so it is not made available again.", "Unset retired.", (AVAILABILITY,), "retired")
    if node.protected:
        said = f": {node.protected_reason}" if node.protected_reason else ""
        yield Cause(
            "protected", f"It is protected{said}, so its instance can not be removed or rebuilt.", "Unset protected.", field="protected"
        )
    if node.provision_state is P.AVAILABLE and node.instance_uuid is not None:
        whose = "the allocation" if node.instance_uuid == node.allocation_uuid else "the instance"
        remedy = "Deploy it, or delete what claims it." if node.allocation_uuid else "Deploy it, or remove its instance_uuid."
        yield Cause("claimed", f"It belongs to {whose} {node.instance_uuid} already.", remedy, (AVAILABILITY,), "instance_uuid")
    if node.resource_class is None:
        remedy = "Set its resource_class; deploying by name works without."
        yield Cause(
            "no-resource-class", "It has no resource class, so no allocation matches it.", remedy, (AVAILABILITY,), "resource_class"
        )


def of_failure(node: Node, last: Workflow | None, advice: str) -> Iterator[Cause]:
    """What went wrong last."""
    if not node.last_error:
        return
    blocks = (AVAILABILITY, DEPLOYMENT) if node.provision_state in FAILED else ()
    since = last.ended_at if last is not None else node.provision_updated_at
    yield Cause("last-error", mask_text(node.last_error), advice, blocks, "last_error", since)
