"""The provision states of a node and what leads from one to the next.

Theory of operation
-------------------

A node is always in exactly one of thirty states. *Events* move it. Some events are *verbs*, which clients ask for
(`manage`, `provide`, `deploy` ...); the others come from a running workflow:

- `wait`    the workflow waits for the machine's ramdisk to call back; `resume` when it has called;
- `hold`    an operator's step asked for a pause; `unhold` ends it;
- `done`    the workflow has reached what it was for;
- `fail`    it has not, and says why in `last_error`;
- `abort`   a client gave up on a waiting or held workflow.

States come in families. *Stable* states (`enroll`, `manageable`, `available`, `active`, `rescue`, `error`) stay until
somebody asks. A state ending in `-ing` has a running workflow, one with `wait` a waiting one, one with `hold` a paused
one. A state with `failed` keeps the target it did not reach, and always has a verb that leads on.

Two names mean a verb in one place and an internal event in another: `manage` out of `cleaning` ends a manual cleaning,
and `clean` out of `deleting` goes on from tearing down. Clients may use neither there: `verbs` leaves them out.

While a state lasts, `target_provision_state` says where its workflow is going; it is null in stable states.

Everything that decides what leads where is in this file. The table is loaded into one `transitions` machine. The machine
knows no nodes: a transition is fired on a model that lives for that moment, callbacks there are none, and the caller
holds the node for itself meanwhile. docs/explanation/states.md is drawn from `EDGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from transitions import Machine, MachineError

from metald.errors import WrongState
from metald.model.states import ProvisionState as P
from metald.model.states import Verb


class Edge(NamedTuple):
    """From `source`, `event` leads to `target`."""

    source: P
    event: str
    target: P


def _edges(source: P, **targets: P) -> tuple[Edge, ...]:
    return tuple(Edge(source, event, target) for event, target in targets.items())


EDGES: tuple[Edge, ...] = (
    *_edges(P.ENROLL, manage=P.VERIFYING),
    *_edges(P.VERIFYING, done=P.MANAGEABLE, fail=P.ENROLL),
    *_edges(P.MANAGEABLE, provide=P.CLEANING, clean=P.CLEANING, inspect=P.INSPECTING, adopt=P.ADOPTING),
    *_edges(P.AVAILABLE, deploy=P.DEPLOYING, manage=P.MANAGEABLE),
    *_edges(P.CLEANING, done=P.AVAILABLE, manage=P.MANAGEABLE, wait=P.CLEAN_WAIT, hold=P.CLEAN_HOLD, fail=P.CLEAN_FAILED),
    *_edges(P.CLEAN_WAIT, resume=P.CLEANING, hold=P.CLEAN_HOLD, abort=P.CLEAN_FAILED, fail=P.CLEAN_FAILED),
    *_edges(P.CLEAN_HOLD, unhold=P.CLEAN_WAIT, abort=P.CLEAN_FAILED),
    *_edges(P.CLEAN_FAILED, manage=P.MANAGEABLE),
    *_edges(P.INSPECTING, done=P.MANAGEABLE, wait=P.INSPECT_WAIT, fail=P.INSPECT_FAILED),
    *_edges(P.INSPECT_WAIT, resume=P.INSPECTING, done=P.MANAGEABLE, abort=P.INSPECT_FAILED, fail=P.INSPECT_FAILED),
    *_edges(P.INSPECT_FAILED, inspect=P.INSPECTING, manage=P.MANAGEABLE),
    *_edges(P.DEPLOYING, done=P.ACTIVE, wait=P.WAIT_CALL_BACK, hold=P.DEPLOY_HOLD, fail=P.DEPLOY_FAILED),
    *_edges(P.WAIT_CALL_BACK, resume=P.DEPLOYING, hold=P.DEPLOY_HOLD, abort=P.DEPLOY_FAILED, delete=P.DELETING, fail=P.DEPLOY_FAILED),
    *_edges(P.DEPLOY_HOLD, unhold=P.WAIT_CALL_BACK, abort=P.DEPLOY_FAILED),
    *_edges(P.DEPLOY_FAILED, deploy=P.DEPLOYING, rebuild=P.DEPLOYING, delete=P.DELETING),
    *_edges(P.ACTIVE, delete=P.DELETING, rebuild=P.DEPLOYING, rescue=P.RESCUING, service=P.SERVICING),
    *_edges(P.DELETING, clean=P.CLEANING, fail=P.ERROR),
    *_edges(P.ERROR, rebuild=P.DEPLOYING, delete=P.DELETING),
    *_edges(P.ADOPTING, done=P.ACTIVE, fail=P.ADOPT_FAILED),
    *_edges(P.ADOPT_FAILED, adopt=P.ADOPTING, manage=P.MANAGEABLE),
    *_edges(P.RESCUING, done=P.RESCUE, wait=P.RESCUE_WAIT, fail=P.RESCUE_FAILED),
    *_edges(P.RESCUE_WAIT, resume=P.RESCUING, abort=P.RESCUE_FAILED, delete=P.DELETING, fail=P.RESCUE_FAILED),
    *_edges(P.RESCUE, rescue=P.RESCUING, unrescue=P.UNRESCUING, delete=P.DELETING),
    *_edges(P.RESCUE_FAILED, rescue=P.RESCUING, unrescue=P.UNRESCUING, delete=P.DELETING),
    *_edges(P.UNRESCUING, done=P.ACTIVE, fail=P.UNRESCUE_FAILED),
    *_edges(P.UNRESCUE_FAILED, rescue=P.RESCUING, unrescue=P.UNRESCUING, delete=P.DELETING),
    *_edges(P.SERVICING, done=P.ACTIVE, wait=P.SERVICE_WAIT, hold=P.SERVICE_HOLD, fail=P.SERVICE_FAILED),
    *_edges(P.SERVICE_WAIT, resume=P.SERVICING, hold=P.SERVICE_HOLD, abort=P.SERVICE_FAILED, delete=P.DELETING, fail=P.SERVICE_FAILED),
    *_edges(P.SERVICE_HOLD, service=P.SERVICING, unhold=P.SERVICE_WAIT, abort=P.SERVICE_FAILED, fail=P.SERVICE_FAILED),
    *_edges(
        P.SERVICE_FAILED,
        service=P.SERVICING,
        rescue=P.RESCUING,
        abort=P.ACTIVE,
        delete=P.DELETING,
        wait=P.SERVICE_WAIT,
        hold=P.SERVICE_HOLD,
    ),
)
"""All ninety-three transitions."""

STABLE: frozenset[P] = frozenset({P.ENROLL, P.MANAGEABLE, P.AVAILABLE, P.ACTIVE, P.RESCUE, P.ERROR})
"""States in which nothing happens until somebody asks."""

FAILED: frozenset[P] = frozenset(state for state in P if state.value.endswith("failed"))
"""States that tell of a workflow that did not reach its target."""

_INTERNAL: frozenset[tuple[P, str]] = frozenset({(P.CLEANING, "manage"), (P.DELETING, "clean")})

_TARGETS: Mapping[P, P] = MappingProxyType(
    {
        P.VERIFYING: P.MANAGEABLE,
        P.INSPECTING: P.MANAGEABLE,
        P.CLEANING: P.AVAILABLE,
        P.DELETING: P.AVAILABLE,
        P.DEPLOYING: P.ACTIVE,
        P.ADOPTING: P.ACTIVE,
        P.UNRESCUING: P.ACTIVE,
        P.SERVICING: P.ACTIVE,
        P.RESCUING: P.RESCUE,
    }
)
_TARGETS_BY_VERB: Mapping[str, P] = MappingProxyType({"clean": P.MANAGEABLE, "provide": P.AVAILABLE})


class _Cursor:
    """The model of one transition; lives as long as `Table.fire` runs."""

    __slots__ = ("state",)

    def __init__(self, state: P) -> None:
        self.state: str = state.value


class Table:
    """The edges, ready for use. Stateless: one table serves every node."""

    def __init__(self) -> None:
        self._machine = Machine(
            model=None,
            states=[state.value for state in P],
            transitions=[{"trigger": e.event, "source": e.source.value, "dest": e.target.value} for e in EDGES],
            initial=None,
            auto_transitions=False,
            queued=False,
        )
        self._verbs = {
            state: frozenset(
                Verb(e.event) for e in EDGES if e.source is state and e.event in set(Verb) and (state, e.event) not in _INTERNAL
            )
            for state in P
        }

    def verbs(self, state: P) -> frozenset[Verb]:
        """What clients may ask for in `state`."""
        return self._verbs[state]

    def fire(self, state: P, target: P | None, event: str) -> tuple[P, P | None]:
        """Where `event` leads.

        Args:
            state: the node's provision state.
            target: its target provision state.
            event: a verb or an internal event.

        Returns:
            The new state and the new target: null in a stable state, kept in a failed one.

        Raises:
            WrongState: no edge of that name leaves `state`.
        """
        cursor = _Cursor(state)
        try:
            self._machine.events[event].trigger(cursor)
        except (MachineError, KeyError):
            raise WrongState(f'The event "{event}" does not lead on from the provision state "{state.value}".') from None
        new = P(cursor.state)
        if new in STABLE:
            return new, None
        if event in _TARGETS_BY_VERB and state is not P.DELETING:
            return new, _TARGETS_BY_VERB[event]
        if event in set(Verb) or target is None:
            return new, _TARGETS.get(new, target)
        return new, target
