"""The adviser: tells what would be done to a node, and why something is not done. Reads only; never asks hardware.

Plans are made by the planner that also makes the real ones, and refused by the guards that also refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metald.drivers.registry import Registry
from metald.errors import Invalid, MetaldError, NotFound
from metald.limits import Limits
from metald.model import Conductor as ConductorRecord
from metald.model import Node, PlannedStep, Verb, Workflow
from metald.model import ProvisionState as P
from metald.model.masking import mask_text, masked
from metald.statemachine import admission, explanation
from metald.statemachine.conductor import Conductor
from metald.statemachine.context import NodeView
from metald.statemachine.durations import Durations
from metald.statemachine.effects import effect
from metald.statemachine.explanation import AVAILABILITY, DEPLOYMENT, Cause
from metald.statemachine.planning import starts_workflow
from metald.store.store import Store

Json = dict[str, Any]
_OF_DEPLOYMENT = ("deploy", "boot")


class Adviser:
    """Explains and foretells.

    Args:
        store: the state.
        registry: hardware types and interfaces.
        conductor: whose guards and plans count.
        limits: who waits for what.
    """

    def __init__(self, store: Store, registry: Registry, conductor: Conductor, limits: Limits) -> None:
        self._store = store
        self._registry = registry
        self._conductor = conductor
        self._limits = limits

    def _node(self, uuid: str) -> Node:
        node = self._store.table(Node).get(uuid)
        if node is None:
            raise NotFound(f"Node {uuid} could not be found.", field="node")
        return node

    async def explain(self, uuid: str) -> Json:
        """Why a node is not available, or cannot be deployed.

        Raises:
            NotFound: there is no such node.
        """
        node = self._node(uuid)
        causes = [*self._known(node), *await self._settings(node)]
        blocked = {what for cause in causes for what in cause.blocks}
        return {
            "uuid": node.uuid,
            "name": node.name,
            "provision_state": node.provision_state,
            "target_provision_state": node.target_provision_state,
            "available": AVAILABILITY not in blocked,
            "deployable": DEPLOYMENT not in blocked,
            "summary": _summary(node, blocked),
            "causes": [_shown(cause) for cause in causes],
            "way_to_available": [verb.value for verb in explanation.way(node, P.AVAILABLE)],
            "verbs": {
                verb.value: [_told(reason) for reason in admission.blockers(self._conductor.table, node, verb, self._conductor.hostname)]
                for verb in sorted(self._conductor.table.verbs(node.provision_state))
            },
        }

    def _known(self, node: Node) -> Iterator[Cause]:
        workflows = self._store.table(Workflow).where("node_uuid", node.uuid)
        running = next((w for w in workflows if not w.state.ended), None)
        ended = [w for w in workflows if w.state.ended and w.cause]
        last = max(ended, key=lambda w: w.ended_at or w.started_at, default=None)
        yield from explanation.of_state(node)
        yield from explanation.of_workflow(node, running)
        yield from map(explanation.of_queue, self._limits.of(node.uuid))
        yield from explanation.of_failure(node, last, _advice(last.cause if last is not None else None))
        yield from explanation.of_flags(node)
        yield from explanation.of_power(node)
        groups = {c.conductor_group for c in self._store.table(ConductorRecord)}
        if groups and node.conductor_group not in groups:
            text = f'No conductor serves its conductor group "{node.conductor_group}".'
            yield Cause("no-conductor", text, "Start one there, or change the node's conductor_group.", field="conductor_group")

    async def _settings(self, node: Node) -> list[Cause]:
        found = []
        view = NodeView(self._store, self._registry, node.uuid)
        for kind in ("power", "management", *_OF_DEPLOYMENT):
            try:
                await self._registry.for_node(node, kind).validate(view)
            except MetaldError as error:
                blocks = (DEPLOYMENT,) if kind in _OF_DEPLOYMENT else (AVAILABILITY, DEPLOYMENT)
                text = f"Its {kind} interface {node.interface(kind)} cannot work: {mask_text(error.message)}"
                found.append(Cause("settings", text, error.remedy or error.advice, blocks, error.field or f"{kind}_interface"))
        return found

    async def plan(self, uuid: str, verb: Verb, arguments: Mapping[str, Any]) -> Json:
        """What a verb would do to a node, how long that usually takes, and what stands against it. Nothing is done.

        Args:
            uuid: which node.
            verb: what would be asked.
            arguments: as for `Conductor.provision`.

        Raises:
            NotFound: there is no such node.
            Unavailable: the journal cannot be read now.
        """
        node = self._node(uuid)
        reasons: list[MetaldError] = list(admission.blockers(self._conductor.table, node, verb, self._conductor.hostname))
        steps: list[PlannedStep] = []
        if starts_workflow(node, verb):
            reasons += [misfit async for misfit in self._conductor.planner.misfits(node, verb)]
            asked = {name: value for name, value in arguments.items() if name.endswith("_steps") or name == "disable_ramdisk"}
            try:
                steps = self._conductor.planner.steps(node, verb, **asked)
            except Invalid as error:
                reasons.append(error)
        durations = await Durations.of(self._store, node)
        seconds, unknown = durations.total(steps)
        through, to = self._leads(node, verb)
        return {
            "uuid": node.uuid,
            "name": node.name,
            "verb": verb.value,
            "from": node.provision_state,
            "through": through,
            "to": to,
            "possible": not reasons,
            "blockers": [_told(reason) for reason in reasons],
            "steps": [self._step(node, step, durations) for step in steps],
            "estimate": {"seconds": seconds, "complete": not unknown, "unknown": unknown},
        }

    def _leads(self, node: Node, verb: Verb) -> tuple[P | None, P | None]:
        try:
            state, target = self._conductor.table.fire(node.provision_state, node.target_provision_state, verb.value)
        except Invalid:
            return None, None
        return (None, state) if target is None else (state, target)

    def _step(self, node: Node, step: PlannedStep, durations: Durations) -> Json:
        what, touches = effect(self._registry, node, step)
        typical = durations.typical(step)
        usual = {"seconds": typical.seconds, "samples": typical.samples, "basis": typical.basis} if typical is not None else None
        return {
            "interface": step.interface,
            "step": step.step,
            "args": masked(step.args),
            "priority": step.priority,
            "what": what,
            "touches": touches,
            "abortable": step.abortable,
            "usual": usual,
        }


def _summary(node: Node, blocked: set[str]) -> str:
    if not blocked:
        return f"Node {node.label} is available and can be deployed."
    state = node.provision_state.value
    if DEPLOYMENT not in blocked:
        return f"Node {node.label} is {state}; it can be deployed by name, but is not offered to allocations."
    if AVAILABILITY not in blocked:
        return f"Node {node.label} is {state}, but cannot be deployed as it is set up now."
    return f"Node {node.label} is {state}: it is not available, and cannot be deployed now."


def _shown(cause: Cause) -> Json:
    return {
        "code": cause.code,
        "text": cause.text,
        "remedy": cause.remedy,
        "field": cause.field,
        "blocks": list(cause.blocks),
        "since": cause.since.isoformat() if cause.since is not None else None,
    }


def _told(reason: MetaldError) -> Json:
    return {
        "code": reason.code,
        "text": mask_text(reason.message),
        "remedy": mask_text(reason.remedy) or reason.advice,
        "field": reason.field,
    }


def _advice(code: str | None) -> str:
    pending: Sequence[type[MetaldError]] = (MetaldError,)
    while pending:
        for kind in pending:
            if kind.code == code:
                return kind.advice
        pending = [below for kind in pending for below in kind.__subclasses__()]
    return "See the node's time-line."
