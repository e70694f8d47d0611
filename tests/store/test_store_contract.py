"""What every store promises, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metald.errors import Duplicate, Invalid, StaleVersion
from metald.model import (
    Chassis,
    Conductor,
    Event,
    Node,
    PlannedStep,
    Port,
    ProvisionState,
    Workflow,
    WorkflowKind,
    new_uuid,
)
from metald.store import batch as batches
from metald.store.changes import Change, Committed
from metald.store.store import Store
from tests.store.conftest import Place
from tests.support.rows import node, record


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


async def test_a_new_store_is_empty(store: Store) -> None:
    assert store.table(Node).all() == []
    assert store.last_seq == 0
    assert await store.events() == []
    assert await store.journal() == []
    assert store.alive


async def test_saved_rows_come_back_with_ids_and_versions(store: Store) -> None:
    done = await store.commit(Change(save=[node("a"), node("b")]))
    a, b = done.saved
    assert (a.version, b.version) == (1, 1)
    assert 0 < a.id < b.id
    assert store.table(Node).all() == [a, b]
    assert store.table(Node).get(a.uuid) is a
    assert store.table(Node).by("name", "b") is b
    assert store.table(Node).by("uuid", a.uuid) is a
    assert a.uuid in store.table(Node)
    assert len(store.table(Node)) == 2


async def test_everything_survives_reopening(place: Place) -> None:
    store = await place.open()
    chassis = Chassis(description='rack \u2603 "1"\\', extra={"deep": [{"x": None, "big": 2**70, "f": 1.5e300}]})
    machine = node(
        "n1", chassis_uuid=chassis.uuid, provision_state=ProvisionState.WAIT_CALL_BACK, traits=["CUSTOM_A"], instance_uuid=new_uuid()
    )
    port = Port(node_uuid=machine.uuid, address="52:54:00:00:00:01")
    workflow = Workflow(
        node_uuid=machine.uuid, kind=WorkflowKind.DEPLOY, steps=[PlannedStep(interface="deploy", step="write", args={"n\0ul": "\0"})]
    )
    conductor = Conductor(hostname="here", drivers=["ipmi"])
    lines = [record(workflow, i, detail=f"line {i}") for i in range(3)]
    events = [Event(type=f"node.{i}", node_uuid=machine.uuid, data={"i": i}) for i in range(3)]
    done = await store.commit(Change(save=[chassis, machine, port, workflow, conductor], journal=lines, events=events))
    await store.close()

    store = await place.open()
    try:
        for kind, row in zip((Chassis, Node, Port, Workflow, Conductor), done.saved, strict=True):
            assert store.table(kind).all() == [row]
        assert store.last_seq == 3
        assert await store.events() == done.events
        assert await store.journal(node_uuid=machine.uuid) == lines
        assert await store.journal(workflow_uuid=workflow.uuid, limit=2) == lines[1:]
        assert await store.journal(workflow_uuid=new_uuid()) == []
    finally:
        await store.close()


async def test_insertion_order_survives_updates_and_reopening(place: Place) -> None:
    store = await place.open()
    rows = [(await store.commit(Change(save=[node(f"n{i}")]))).saved[0] for i in range(4)]
    await store.commit(Change(save=[rows[2].changed(name="z")]))
    await store.commit(Change(save=[rows[0].changed(name="y")], delete=[rows[1]]))
    assert [n.name for n in store.table(Node)] == ["y", "z", "n3"]
    await store.close()
    store = await place.open()
    assert [n.name for n in store.table(Node)] == ["y", "z", "n3"]
    (last,) = (await store.commit(Change(save=[node("new")]))).saved
    assert last.id > rows[3].id
    await store.close()


async def test_indexes_follow_their_rows(store: Store) -> None:
    a, b = node("a"), node("b")
    ports = [Port(node_uuid=n.uuid, address=f"52:54:00:00:00:0{i}") for i, n in enumerate((a, b, a, b))]
    saved = (await store.commit(Change(save=[a, b, *ports]))).saved[2:]
    table = store.table(Port)
    assert table.where("node_uuid", a.uuid) == [saved[0], saved[2]]
    (moved,) = (await store.commit(Change(save=[saved[1].changed(node_uuid=a.uuid)]))).saved
    assert table.where("node_uuid", a.uuid) == [saved[0], moved, saved[2]]
    await store.commit(Change(delete=[saved[3]]))
    assert table.where("node_uuid", b.uuid) == []
    assert table.by("address", "52:54:00:00:00:03") is None
    assert len(store.table(Node).where("chassis_uuid", None)) == 2
    with pytest.raises(KeyError):
        table.where("extra", 1)
    with pytest.raises(KeyError):
        table.by("extra", 1)


async def test_a_stale_version_is_refused_and_changes_nothing(store: Store) -> None:
    (old,) = (await store.commit(Change(save=[node("n")]))).saved
    (new,) = (await store.commit(Change(save=[old.changed(extra={"by": "first"})], events=[Event(type="x")]))).saved
    generation = store.table(Node).generation
    for change in (
        Change(save=[old.changed(extra={"by": "second"})], events=[Event(type="y")]),
        Change(save=[old.changed(name="other")], events=[Event(type="y")]),
        Change(delete=[old], save=[node("made in vain")], events=[Event(type="y")]),
        Change(save=[msg_version(node("never stored"), 7)]),
    ):
        with pytest.raises(StaleVersion, match="changed or deleted by somebody else"):
            await store.commit(change)
    assert store.table(Node).all() == [new]
    assert store.table(Node).generation == generation
    assert store.last_seq == 1
    assert [e.type for e in await store.events()] == ["x"]


def msg_version(row: Node, version: int) -> Node:
    changed: Node = row.changed(version=version)
    return changed


async def test_a_duplicate_names_the_field_and_the_value(store: Store) -> None:
    first = node("n1", instance_uuid=new_uuid())
    port = Port(node_uuid=first.uuid, address="52:54:00:00:00:01", name="p")
    await store.commit(Change(save=[first, port]))
    for bad, field, text in (
        (node("n1"), "name", "A node with name n1 already exists."),
        (node(uuid=first.uuid), "uuid", f"A node with UUID {first.uuid} already exists."),
        (
            node("n2", instance_uuid=first.instance_uuid),
            "instance_uuid",
            f"A node with instance UUID {first.instance_uuid} already exists.",
        ),
        (Port(node_uuid=first.uuid, address=port.address), "address", f"A port with MAC address {port.address} already exists."),
        (Port(node_uuid=first.uuid, address="52:54:00:00:00:02", name="p"), "name", "A port with name p already exists."),
    ):
        with pytest.raises(Duplicate) as caught:
            await store.commit(Change(save=[bad], events=[Event(type="never")]))
        assert caught.value.field == field
        assert str(caught.value) == text
    assert len(store.table(Node)) == len(store.table(Port)) == 1
    assert store.last_seq == 0


async def test_an_update_that_takes_a_taken_name_is_refused(store: Store) -> None:
    a, b = (await store.commit(Change(save=[node("a"), node("b")]))).saved
    with pytest.raises(Duplicate, match="A node with name a already exists"):
        await store.commit(Change(save=[b.changed(name="a")]))
    assert store.table(Node).all() == [a, b]
    await store.commit(Change(save=[b.changed(name=None)]))
    await store.commit(Change(save=[a.changed(name=None)]))


async def test_names_pass_on_within_one_change(store: Store) -> None:
    a, b, c = (await store.commit(Change(save=[node("a"), node("b"), node("c")]))).saved
    a, b, c = (await store.commit(Change(save=[a.changed(name="b"), b.changed(name="c"), c.changed(name="a")]))).saved
    assert [n.name for n in store.table(Node)] == ["b", "c", "a"]
    assert store.table(Node).by("name", "a") is c
    await store.commit(Change(save=[node("b"), a.changed(name="z")], delete=[b]))
    assert [n.name for n in store.table(Node)] == ["z", "a", "b"]
    with pytest.raises(Duplicate):
        await store.commit(Change(save=[c.changed(name="z"), store.table(Node).by("name", "b").changed(name="a")]))  # type: ignore[union-attr]
    with pytest.raises(Duplicate, match="A node with name twice"):
        await store.commit(Change(save=[node("twice"), node("twice")]))


async def test_what_conflicts_fails_alone(store: Store) -> None:
    rows = (await store.commit(Change(save=[node(f"n{i}") for i in range(10)]))).saved
    await store.commit(Change(save=[rows[3].changed(extra={"v": 2}), rows[4].changed(name="four")]))
    changes = [Change(save=[row.changed(extra={"v": i})], events=[Event(type=str(i))]) for i, row in enumerate(rows)]
    changes += [Change(save=[node("n7")]), Change(save=[node("four")]), Change(save=[node("n4")]), Change(delete=[rows[4]])]
    results = await asyncio.gather(*map(store.commit, changes), return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds[3] is kinds[4] is kinds[13] is StaleVersion
    assert kinds[10] is kinds[11] is Duplicate
    good = [i for i in range(13) if i not in (3, 4, 10, 11)]
    assert all(kinds[i] is Committed for i in good)
    assert [e.type for e in await store.events()] == [str(i) for i in range(10) if i not in (3, 4)]
    assert [e.seq for e in await store.events()] == list(range(1, 9))


async def test_of_two_claims_on_a_name_one_wins(store: Store) -> None:
    results = await asyncio.gather(*(store.commit(Change(save=[node("same")])) for _ in range(5)), return_exceptions=True)
    assert [type(r) for r in results] == [Committed, Duplicate, Duplicate, Duplicate, Duplicate]
    assert len(store.table(Node)) == 1


async def test_a_name_given_up_in_the_same_batch_can_be_taken(store: Store) -> None:
    a, b = (await store.commit(Change(save=[node("a"), node("b")]))).saved
    results = await asyncio.gather(
        store.commit(Change(save=[a.changed(name="x")])),
        store.commit(Change(save=[b.changed(name="a")])),
        store.commit(Change(save=[node("b")])),
    )
    assert [r.saved[0].name for r in results] == ["x", "a", "b"]


async def test_two_that_want_each_others_names_do_not_wait_for_ever(store: Store) -> None:
    a, b = (await store.commit(Change(save=[node("a"), node("b")]))).saved
    results = await asyncio.gather(
        store.commit(Change(save=[a.changed(name="b")])), store.commit(Change(save=[b.changed(name="a")])), return_exceptions=True
    )
    assert Duplicate in [type(r) for r in results]
    assert len({n.name for n in store.table(Node)}) == 2


async def test_an_old_copy_does_not_match_a_row_that_was_made_again(store: Store) -> None:
    (old,) = (await store.commit(Change(save=[node("a")]))).saved
    await store.commit(Change(delete=[old]))
    (new,) = (await store.commit(Change(save=[node("b", uuid=old.uuid)]))).saved
    assert (new.version, old.version) == (1, 1)
    with pytest.raises(StaleVersion):
        await store.commit(Change(save=[old.changed(name="c")]))
    with pytest.raises(StaleVersion):
        await store.commit(Change(delete=[old]))
    assert store.table(Node).all() == [new]


async def test_a_name_that_is_kept_cannot_be_taken_in_the_same_change(store: Store) -> None:
    a, b = (await store.commit(Change(save=[node("a"), node("b")]))).saved
    with pytest.raises(Duplicate):
        await store.commit(Change(save=[a.changed(extra={"x": 1}), b.changed(name="a")]))
    assert store.table(Node).all() == [a, b]


async def test_of_two_updates_of_a_version_one_wins(store: Store) -> None:
    (row,) = (await store.commit(Change(save=[node("n")]))).saved
    results = await asyncio.gather(*(store.commit(Change(save=[row.changed(extra={"i": i})])) for i in range(5)), return_exceptions=True)
    assert [type(r) for r in results] == [Committed] + 4 * [StaleVersion]
    assert store.table(Node).all()[0].extra == {"i": 0}


async def test_an_empty_change_is_nothing(store: Store) -> None:
    assert await store.commit(Change()) == Committed([], [])


@pytest.mark.parametrize(
    "change",
    [
        Change(save=[Node(driver="x", name="a\0b")]),
        Change(save=[Node(driver="x", name="\ud800")]),
        Change(save=[Node(driver="x", extra={"k": "\udfff"})]),
        Change(save=[Node(driver="x", extra={"k": nested(5000)})]),
        Change(events=[Event(type="x", data={"blob": "x" * batches.MAX_EVENT})]),
        Change(events=[Event(type="x", node_uuid="a\0")]),
    ],
    ids=["nul", "surrogate-name", "surrogate", "depth", "event-size", "event-nul"],
)
async def test_what_cannot_be_stored_is_refused_clearly(store: Store, change: Change) -> None:
    with pytest.raises(Invalid):
        await store.commit(change)
    await store.commit(Change(save=[node("fine")]))


async def test_a_change_that_makes_no_sense_is_a_defect_of_its_maker(store: Store) -> None:
    (row,) = (await store.commit(Change(save=[node("n")]))).saved
    with pytest.raises(ValueError, match="twice"):
        await store.commit(Change(save=[row.changed()], delete=[row]))
    with pytest.raises(ValueError, match="not a kind"):
        await store.commit(Change(save=[type("Odd", (Node,), {})(driver="x")]))


async def test_text_that_looks_like_code_is_text(store: Store, place: Place) -> None:
    name = "'; DROP TABLE nodes; -- \" $1 ? :x %s {} \\"
    (row,) = (await store.commit(Change(save=[node(name, extra={name: [name, "\u0000", "\u2028", "\U0001f600"]})]))).saved
    assert store.table(Node).by("name", name) is row
    with pytest.raises(Duplicate):
        await store.commit(Change(save=[node(name)]))
    await store.close()
    again = await place.open()
    assert again.table(Node).all() == [row]
    await again.close()
