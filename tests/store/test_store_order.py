"""What every store promises to callers and watchers that come and go, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from metald.model import (
    Event,
    Node,
    ProvisionState,
    Workflow,
    WorkflowKind,
    WorkflowState,
    new_uuid,
    now,
)
from metald.model.event import Standing
from metald.store import batch as batches
from metald.store.changes import Change
from metald.store.store import Store
from tests.store.conftest import Place
from tests.support.rows import node, record


async def test_subscribers_hear_every_event_in_order_after_memory_and_before_the_caller(store: Store) -> None:
    heard: list[int] = []
    returned: set[int] = set()

    def hear(events: Any) -> None:
        for event in events:
            assert event.seq not in returned
            assert store.table(Node).get(event.node_uuid) is not None
            heard.append(event.seq)

    def broken(_events: Any) -> None:
        raise RuntimeError("not your concern")

    leave_broken = store.subscribe(broken)
    leave = store.subscribe(hear)

    async def one(i: int) -> None:
        row = node(f"n{i}")
        done = await store.commit(Change(save=[row], events=[Event(type="a", node_uuid=row.uuid), Event(type="b", node_uuid=row.uuid)]))
        first, second = (e.seq for e in done.events)
        assert second == first + 1
        assert second in heard
        returned.update((first, second))

    await asyncio.gather(*map(one, range(300)))
    assert heard == list(range(1, 601))
    assert store.last_seq == 600
    leave()
    leave()
    leave_broken()
    await store.commit(Change(events=[Event(type="unheard")]))
    assert store.last_seq == 601
    assert len(heard) == 600


async def test_a_page_says_where_the_sequence_begins_and_ends(store: Store) -> None:
    empty = await store.page(since=0, limit=5, size=1000)
    assert (empty.events, empty.first, empty.last, empty.end, empty.gap(0), empty.gap(1)) == ([], 1, 0, 0, None, 1)
    here, there, old = new_uuid(), new_uuid(), now() - timedelta(days=40)
    await store.commit(Change(events=[Event(type="t", node_uuid=here if i % 2 else there, time=old) for i in range(1, 11)]))
    page = await store.page(since=3, limit=4, size=100_000)
    assert ([e.seq for e in page.events], page.first, page.last, page.end) == ([4, 5, 6, 7], 1, 10, 7)
    page = await store.page(since=3, node_uuid=here, limit=2, size=100_000)
    assert ([e.seq for e in page.events], page.end) == ([5, 7], 7)
    page = await store.page(since=9, node_uuid=here, limit=2, size=100_000)
    assert ([e.seq for e in page.events], page.end) == ([], 10)
    await store.purge(limit=6)
    page = await store.page(since=3, limit=4, size=100_000)
    assert ([e.seq for e in page.events], page.first, page.end) == ([7, 8, 9, 10], 7, 10)
    assert [page.gap(since) for since in (3, 5, 6, 10, 11)] == [7, 7, None, None, 11]
    assert (await store.page(since=3, node_uuid=there, limit=1, size=1)).gap(3) == 7
    await store.purge()
    page = await store.page(since=10, limit=4, size=100_000)
    assert (page.events, page.first, page.last, page.gap(10), page.gap(9)) == ([], 11, 10, None, 11)


async def test_a_page_is_bounded_in_size_but_never_empty(store: Store) -> None:
    await store.commit(Change(events=[Event(type="t", data={"x": "y" * 1000}) for _ in range(10)]))
    for size, count in ((1, 1), (1000, 1), (2000, 2), (3000, 3), (1_000_000, 10)):
        assert [e.seq for e in (await store.page(since=0, limit=100, size=size)).events] == list(range(1, count + 1)), size


async def test_events_note_where_their_nodes_stand(store: Store) -> None:
    one, other = node("n1", owner="alice", shard="s1"), node("n2", owner="bob")
    ours = [Event(type="t", node_uuid=row.uuid) for row in (one, other)]
    made = await store.commit(Change(save=[one, other], events=[*ours, Event(type="of nothing")]))
    assert [event.seq for event in ours] == [0, 0], "a caller's events stay as they are"
    saved = made.saved[0]
    assert isinstance(saved, Node)
    moved = saved.changed(provision_state=ProvisionState.MANAGEABLE, owner=None)
    done = await store.commit(Change(save=[moved], events=[*ours, ours[0]]))
    same = done.saved[0].changed(description="x")
    told = [*made.events, *done.events, *(await store.commit(Change(save=[same], events=ours[:1]))).events]
    gone = await store.commit(Change(delete=[store.table(Node).all()[0]], events=ours[:1]))
    told += [*gone.events, *(await store.commit(Change(events=[*ours[:1], Event(type="t", node_uuid=new_uuid())]))).events]
    alice, bob = Standing(owner="alice", shard="s1", state="enroll"), Standing(owner="bob", state="enroll")
    nobody = Standing(shard="s1", state="manageable")
    assert [(event.before, event.after) for event in told] == [
        *((None, alice), (None, bob), (None, None)),
        *((alice, nobody), (None, bob), (alice, nobody)),
        (None, nobody),
        (nobody, None),
        *((None, nobody), (None, Standing())),
    ]
    assert await store.events() == told


async def test_events_can_be_read_from_anywhere(store: Store) -> None:
    here, there = new_uuid(), new_uuid()
    await store.commit(Change(events=[Event(type=str(i), node_uuid=here if i % 2 else there) for i in range(1, 11)]))
    assert [e.seq for e in await store.events(since=7)] == [8, 9, 10]
    assert [e.seq for e in await store.events(node_uuid=here)] == [1, 3, 5, 7, 9]
    assert [e.seq for e in await store.events(node_uuid=here, limit=2)] == [1, 3]
    assert [e.seq for e in await store.events(node_uuid=here, limit=2, newest=True)] == [7, 9]
    assert await store.events(since=10) == []


async def test_a_caller_that_is_cancelled_leaves_when_its_change_is_settled(store: Store) -> None:
    (row,) = (await store.commit(Change(save=[node("n")]))).saved
    task = asyncio.create_task(store.commit(Change(save=[row.changed(extra={"made": True})])))
    other = asyncio.create_task(store.commit(Change(save=[node("other")])))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.table(Node).get(row.uuid).extra == {"made": True}  # type: ignore[union-attr]
    assert (await other).saved[0].name == "other"


async def test_a_caller_that_is_cancelled_while_its_change_is_being_settled_leaves_too(store: Store) -> None:
    """It has been cancelled, and has not run since, when the writer tells what became of the change."""
    tasks: list[asyncio.Task[Any]] = []
    leave = store.subscribe(lambda _events: tasks[0].cancel())
    tasks.append(asyncio.create_task(store.commit(Change(save=[node("n")], events=[Event(type="a")]))))
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(60):
            await tasks[0]
    leave()
    assert len(store.table(Node)) == 1


async def test_a_caller_that_is_cancelled_before_a_conflict_leaves_too(store: Store) -> None:
    await store.commit(Change(save=[node("n")]))
    task = asyncio.create_task(store.commit(Change(save=[node("n")])))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store.table(Node)) == 1


async def test_owning_excludes_others_and_leaks_nothing(store: Store) -> None:
    (row,) = (await store.commit(Change(save=[node("n")]))).saved

    async def add() -> None:
        async with store.owning(row.uuid):
            current = store.table(Node).get(row.uuid)
            assert current is not None
            await store.commit(Change(save=[current.changed(extra={"n": current.extra.get("n", 0) + 1})]))

    waiter = asyncio.create_task(add())
    await asyncio.gather(*(add() for _ in range(20)))
    await waiter
    async with store.owning(row.uuid):
        stuck = asyncio.create_task(add())
        await asyncio.sleep(0)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
    assert store.table(Node).get(row.uuid).extra == {"n": 21}  # type: ignore[union-attr]
    assert len(store._locks) == 0


async def test_more_callers_than_places_all_get_through(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_CHANGES", 7)
    store._writer._slots = asyncio.Semaphore(20)
    results = await asyncio.gather(*(store.commit(Change(save=[node(f"n{i}")], events=[Event(type="x")])) for i in range(200)))
    assert sorted(r.events[0].seq for r in results) == list(range(1, 201))
    assert len(store.table(Node)) == 200


async def test_closing_finishes_what_was_accepted(place: Place) -> None:
    store = await place.open()
    tasks = [asyncio.create_task(store.commit(Change(save=[node(f"n{i}")]))) for i in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert all(len(task.result().saved) == 1 for task in tasks)
    again = await place.open()
    assert len(again.table(Node)) == 50
    await again.close()


async def test_purge_lets_the_old_go_in_bounded_steps(store: Store) -> None:
    long_ago, owner = now() - timedelta(days=40), node("n")
    old = Workflow(node_uuid=owner.uuid, kind=WorkflowKind.CLEAN, state=WorkflowState.DONE, started_at=long_ago, ended_at=long_ago)
    running = Workflow(node_uuid=owner.uuid, kind=WorkflowKind.DEPLOY, started_at=long_ago)
    events = [Event(type="old", time=long_ago) for _ in range(5)]
    events += [Event(type="new"), Event(type="clock was wrong", time=long_ago), Event(type="new")]
    journal = [record(old, i, ended_at=long_ago) for i in range(5)] + [record(running)]
    await store.commit(Change(save=[owner, old, running], events=events, journal=journal))
    counts = []
    while gone := await store.purge(limit=3):
        counts.append(gone)
    assert counts == [1 + 3 + 3, 2 + 2]
    assert [w.uuid for w in store.table(Workflow)] == [running.uuid]
    assert [e.seq for e in await store.events()] == [6, 7, 8]
    assert [line.workflow_uuid for line in await store.journal()] == [running.uuid]
    assert (await store.commit(Change(events=[Event(type="next")]))).events[0].seq == 9


async def test_a_crowd_that_shared_a_transaction_goes_on_a_few_at_a_time_and_in_order(store: Store) -> None:
    """Requests that come meanwhile are not kept waiting behind all of it."""
    told: list[int] = []

    async def one(number: int) -> None:
        await store.commit(Change(save=[node(f"n{number}")]))
        told.append(number)

    most = 0
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(one(number))
        while len(told) < 200:
            before = len(told)
            await asyncio.sleep(0)
            most = max(most, len(told) - before)
    assert store.batches < 200, "they shared transactions"
    assert most <= 8
    assert told == list(range(200))


async def test_who_was_told_nothing_yet_when_the_store_closes_is_told(place: Place) -> None:
    store = await place.open()
    changes = [asyncio.create_task(store.commit(Change(save=[node(f"n{number}")]))) for number in range(200)]
    await asyncio.sleep(0)
    await store.close()
    assert all(done.saved[0].version == 1 for done in await asyncio.gather(*changes))
