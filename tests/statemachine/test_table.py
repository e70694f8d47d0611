"""The transition table: its size, its shape, and a random walk against a plain model of the same edges."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metald.errors import WrongState
from metald.model import ProvisionState as P
from metald.model import Verb
from metald.statemachine.table import EDGES, FAILED, STABLE, Table

TABLE = Table()
EVENTS = sorted({edge.event for edge in EDGES})


def test_the_table_has_all_states_and_transitions() -> None:
    assert len(P) == 30
    assert len(EDGES) == 93
    assert len({(e.source, e.event) for e in EDGES}) == 93
    assert {e.source for e in EDGES} | {e.target for e in EDGES} == set(P)


@pytest.mark.parametrize(("state", "event"), [(P.CLEANING, Verb.MANAGE), (P.DELETING, Verb.CLEAN)])
def test_internal_events_that_share_a_verbs_name_are_refused_to_clients(state: P, event: Verb) -> None:
    assert event not in TABLE.verbs(state)
    TABLE.fire(state, P.AVAILABLE, event.value)


@pytest.mark.parametrize("state", sorted(P))
def test_no_state_is_a_dead_end(state: P) -> None:
    reached, todo = {state}, [state]
    while todo:
        here = todo.pop()
        for edge in EDGES:
            if edge.source is here and edge.target not in reached:
                reached.add(edge.target)
                todo.append(edge.target)
    assert P.AVAILABLE in reached
    assert P.ACTIVE in reached


@pytest.mark.parametrize("state", sorted(STABLE | FAILED))
def test_a_client_can_lead_on_from_every_state_at_rest(state: P) -> None:
    assert TABLE.verbs(state)


@pytest.mark.parametrize(
    ("state", "target", "event", "expected"),
    [
        (P.ENROLL, None, "manage", (P.VERIFYING, P.MANAGEABLE)),
        (P.VERIFYING, P.MANAGEABLE, "fail", (P.ENROLL, None)),
        (P.MANAGEABLE, None, "provide", (P.CLEANING, P.AVAILABLE)),
        (P.MANAGEABLE, None, "clean", (P.CLEANING, P.MANAGEABLE)),
        (P.CLEANING, P.MANAGEABLE, "wait", (P.CLEAN_WAIT, P.MANAGEABLE)),
        (P.CLEANING, P.MANAGEABLE, "fail", (P.CLEAN_FAILED, P.MANAGEABLE)),
        (P.DEPLOYING, P.ACTIVE, "fail", (P.DEPLOY_FAILED, P.ACTIVE)),
        (P.DEPLOY_FAILED, P.ACTIVE, "delete", (P.DELETING, P.AVAILABLE)),
        (P.DELETING, P.AVAILABLE, "clean", (P.CLEANING, P.AVAILABLE)),
        (P.SERVICE_FAILED, P.ACTIVE, "abort", (P.ACTIVE, None)),
        (P.ACTIVE, None, "rescue", (P.RESCUING, P.RESCUE)),
        (P.RESCUE, None, "unrescue", (P.UNRESCUING, P.ACTIVE)),
    ],
)
def test_targets_follow_the_states(state: P, target: P | None, event: str, expected: tuple[P, P | None]) -> None:
    assert TABLE.fire(state, target, event) == expected


class Walk(RuleBasedStateMachine):
    """Whatever events come in whatever order: the table says what the list of edges says, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.target = P.ENROLL, None
        self.edges = {(e.source, e.event): e.target for e in EDGES}

    @rule(event=st.sampled_from([*EVENTS, "", "to_active", "nonsense"]))
    def event_comes(self, event: str) -> None:
        expected = self.edges.get((self.state, event))
        if expected is None:
            with pytest.raises(WrongState):
                TABLE.fire(self.state, self.target, event)
        else:
            self.state, self.target = TABLE.fire(self.state, self.target, event)
            assert self.state is expected

    @invariant()
    def target_is_null_exactly_when_nothing_is_underway(self) -> None:
        assert (self.target is None) == (self.state in STABLE)

    @invariant()
    def verbs_are_events_of_the_state(self) -> None:
        for verb in TABLE.verbs(self.state):
            assert (self.state, verb.value) in self.edges


Walk.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestWalk = Walk.TestCase
