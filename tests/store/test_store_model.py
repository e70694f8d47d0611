"""The store against a plain dict: any sequence of changes, conflicting or not, leaves both alike, after reopening too."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from metald.config import StoreSettings
from metald.errors import Duplicate, StaleVersion
from metald.model import Event, Node, Resource
from metald.store.changes import Change
from metald.store.store import Store
from tests.support.postgres import PrivatePostgres

NAMES = st.sampled_from(["a", "b", "c", None])
ROWS = st.integers(0, 3)


class StoreAgainstDict(RuleBasedStateMachine):
    """Four possible nodes with fixed UUIDs, three names, any change over them."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="metald-model-")
        self.uuids = [f"00000000-0000-4000-8000-00000000000{i}" for i in range(4)]
        self.rows: dict[str, Node] = {}
        self.seq = 0
        self.heard: list[int] = []
        self.stale: list[Node] = []
        self.open()
        leftovers = self.store.table(Node).all()
        if leftovers:
            self.loop.run_until_complete(self.store.commit(Change(delete=list(leftovers))))
        self.seq = self.store.last_seq

    def open(self) -> None:
        self.store = self.loop.run_until_complete(Store.open(StoreSettings(url=self.url), Path(self.directory.name)))
        self.store.subscribe(lambda events: self.heard.extend(e.seq for e in events))

    def candidate(self, index: int, name: str | None, *, stale: bool) -> Node:
        uuid = self.uuids[index]
        row = self.rows.get(uuid)
        if stale:
            row = next((r for r in self.stale if r.uuid == uuid), row)
        if row is None:
            return Node(driver="x", uuid=uuid, name=name, maintenance=name == "a")
        changed: Node = row.changed(name=name, maintenance=name == "a")
        return changed

    def expect(self, change: Change) -> type[Exception] | None:
        """Apply to the model; return the error if the change must fail."""
        rows = copy.copy(self.rows)
        for row in [*change.delete, *change.save]:
            present = rows.get(row.uuid)
            if row.version and (present is None or (present.id, present.version) != (row.id, row.version)):
                return StaleVersion
        for row in change.delete:
            del rows[row.uuid]
        saved: dict[str, Any] = {row.uuid: row for row in change.save}
        for row in change.save:
            if not row.version and row.uuid in rows:
                return Duplicate
        names = [r.name for r in (rows | saved).values() if r.name is not None]  # type: ignore[attr-defined]
        return Duplicate if len(names) != len(set(names)) else None

    @rule(
        saves=st.lists(st.tuples(ROWS, NAMES, st.booleans()), max_size=3, unique_by=lambda t: t[0]),
        deletes=st.lists(st.tuples(ROWS, st.booleans()), max_size=2, unique_by=lambda t: t[0]),
        events=st.integers(0, 2),
    )
    def one(self, saves: Any, deletes: Any, events: int) -> None:
        change = self.build(saves, deletes, events)
        (outcome,) = self.commit([change])
        self.judge(change, outcome)

    @rule(
        changes=st.lists(
            st.tuples(st.lists(st.tuples(ROWS, NAMES, st.booleans()), max_size=2, unique_by=lambda t: t[0]), st.integers(0, 1)),
            min_size=2,
            max_size=5,
        )
    )
    def many_at_once(self, changes: Any) -> None:
        """A batch must equal its changes made one by one in some order: the store's sequence of events tells which."""
        built = [self.build(saves, [], 1) for saves, _ in changes]
        outcomes = self.commit(built)
        done = [(o.events[0].seq, c, o) for c, o in zip(built, outcomes, strict=True) if not isinstance(o, BaseException)]
        for _, change, outcome in sorted(done, key=lambda t: t[0]):
            self.judge(change, outcome)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, Duplicate | StaleVersion)

    def commit(self, changes: list[Change]) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*map(self.store.commit, changes), return_exceptions=True)

        return self.loop.run_until_complete(together())

    def build(self, saves: Any, deletes: Any, events: int) -> Change:
        taken = {index for index, _, _ in saves}
        gone: list[Resource] = [
            self.candidate(index, None, stale=stale) for index, stale in deletes if index not in taken and self.uuids[index] in self.rows
        ]
        return Change(
            save=[self.candidate(index, name, stale=stale) for index, name, stale in saves],
            delete=gone,
            events=[Event(type="e") for _ in range(events)],
        )

    def judge(self, change: Change, outcome: Any) -> None:
        error = self.expect(change)
        if error is not None:
            # both may be true of one change; the store reports either
            assert isinstance(outcome, Duplicate | StaleVersion), outcome
            return
        assert not isinstance(outcome, BaseException), outcome
        assert [e.seq for e in outcome.events] == list(range(self.seq + 1, self.seq + 1 + len(change.events)))
        self.seq += len(change.events)
        for row in change.delete:
            self.stale.append(self.rows.pop(row.uuid))
        for old, new in zip(change.save, outcome.saved, strict=True):
            assert new.version == old.version + 1
            if old.uuid in self.rows:
                self.stale.append(self.rows[old.uuid])
                assert new.id == self.rows[old.uuid].id
            self.rows[old.uuid] = new

    @invariant()
    def memory_is_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        table = self.store.table(Node)
        assert table.all() == sorted(self.rows.values(), key=lambda r: r.id)
        for name in ("a", "b", "c"):
            assert table.by("name", name) == next((r for r in self.rows.values() if r.name == name), None)
        assert table.counts == Counter((r.provision_state, r.maintenance, r.fault) for r in self.rows.values())
        assert self.store.last_seq == self.seq
        assert self.heard == list(range(self.seq - len(self.heard) + 1, self.seq + 1))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())
            self.open()
            self.memory_is_the_model()
            self.loop.run_until_complete(self.store.close())
            self.loop.close()
            self.directory.cleanup()


def _check(url: str, examples: int) -> None:
    machine = type("Machine", (StoreAgainstDict,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )


def test_any_sequence_of_changes_on_sqlite() -> None:
    _check("", 25)


@pytest.mark.postgres
def test_any_sequence_of_changes_on_postgresql(postgres: PrivatePostgres) -> None:
    _check(postgres.url(postgres.fresh_database()), 10)
