"""Who is told of a node is decided by where it stood when it happened: at once, after any interruption, and in histories alike."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metald.entropy import new_uuid
from metald.http.v1 import watch as route
from metald.http.watch.filters import Filter, Sight
from metald.http.watch.hub import Hub
from metald.model import Event, Node, ProvisionState
from metald.model.event import Standing
from metald.store.changes import Change
from tests.http.test_http_watch import api_with, tell, watching
from tests.support.api import Api, api_settings, serving
from tests.support.watching import PATIENCE, EventSource, Told

STATES = ["available", "deploying", "active"]
NODES = st.integers(0, 2)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "provision_state": st.sampled_from([ProvisionState(state) for state in STATES]),
        "owner": st.sampled_from(["alice", "bob", None]),
        "shard": st.sampled_from(["s1", "s2", None]),
    },
)
DEEDS = st.one_of(
    st.tuples(st.just("save"), NODES, FIELDS, st.lists(st.sampled_from(STATES), max_size=2)),
    st.tuples(st.just("delete"), NODES),
    st.tuples(st.just("tell"), NODES),
    st.tuples(st.just("tell"), st.none()),
)
CROWDS = st.lists(st.lists(DEEDS, max_size=3, unique_by=lambda deed: (deed[0] == "tell", str(deed[1]))), max_size=8)
"""What is done at once, again and again: one change of each node, and what is told of it meanwhile."""
QUESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "provision_state": st.lists(st.sampled_from(STATES), min_size=1, max_size=2),
        "owner": st.lists(st.sampled_from(["alice", "bob"]), min_size=1),
        "shard": st.lists(st.sampled_from(["s1", "s2"]), min_size=1),
        "type": st.lists(st.sampled_from(["node.*", "node.provision", "test.event"]), min_size=1),
        "node": st.lists(NODES, min_size=1),
    },
)


class World:
    """Three possible nodes, of which anything may happen."""

    def __init__(self, api: Api) -> None:
        self.store = api.house.store
        self.uuids = [new_uuid() for _ in range(3)]

    def change(self, deed: Any) -> Change:
        kind, index = deed[:2]
        uuid = None if index is None else self.uuids[index]
        node = None if uuid is None else self.store.table(Node).get(uuid)
        if kind == "tell" or (kind == "delete" and node is None):
            return Change(events=[Event(type="test.event", node_uuid=uuid)])
        if kind == "delete":
            assert node is not None
            return Change(delete=[node], events=[Event(type="node.delete", node_uuid=uuid)])
        fields, way = deed[2:]
        state = node.provision_state if node else ProvisionState.ENROLL
        events = [Event(type="node.create" if node is None else "node.update", node_uuid=uuid)]
        for via in way:
            events.append(Event(type="node.provision", node_uuid=uuid, data={"from": state, "to": via}))
            state = ProvisionState(via)
        fields = {**fields, **({"provision_state": state} if way else {})}
        assert uuid is not None
        return Change(save=[node.changed(**fields) if node else Node(driver="fake-hardware", uuid=uuid, **fields)], events=events)

    def query(self, question: Any) -> str:
        named = {**question, "node": [self.uuids[index] for index in question["node"]]} if "node" in question else question
        return "".join(f"&{name}={','.join(values)}" for name, values in named.items())


async def told_until(source: EventSource, last: int) -> list[int]:
    """The numbers of the events up to the heartbeat that says that there are no more until `last`."""
    seen: list[int] = []
    number, beats, data = 0, False, b""
    async with asyncio.timeout(PATIENCE):
        async for line in source.answer.content:
            if line == b"\n":
                if beats and number >= last:
                    return seen
                if data:
                    seen.append(json.loads(data)["seq"])
                beats, data = False, b""
            elif line.startswith(b": heartbeat"):
                beats = True
            elif line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                data = line[6:]
    raise AssertionError("the stream ended")


async def test_streams_their_resumptions_and_histories_tell_the_same(tmp_path: Path) -> None:
    """Whatever happens, whatever is asked for, and wherever a stream is cut."""
    async with api_with(tmp_path, heartbeat=0.02) as api:
        loop = asyncio.get_running_loop()

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(CROWDS, st.lists(QUESTIONS, min_size=1, max_size=3), st.data())
        def check(crowds: Any, questions: Any, data: st.DataObject) -> None:
            cuts = [data.draw(st.integers(0, 2 * len(crowds))) for _ in questions]
            asyncio.run_coroutine_threadsafe(_tell_the_same(api, crowds, questions, cuts), loop).result()

        await asyncio.to_thread(check)


async def _tell_the_same(api: Api, crowds: Any, questions: Any, cuts: list[int]) -> None:
    world, begin = World(api), api.house.store.last_seq
    queries = [world.query(question) for question in questions]
    happened = asyncio.Event()
    opened = asyncio.Barrier(len(queries) + 1)

    async def live(query: str) -> list[int]:
        async with watching(api, f"?{query[1:]}") as source:
            await opened.wait()
            await happened.wait()
            return await told_until(source, api.house.store.last_seq)

    watchers = [asyncio.create_task(live(query)) for query in queries]
    await opened.wait()
    for crowd in crowds:
        await asyncio.gather(*(api.house.store.commit(world.change(deed)) for deed in crowd))
    happened.set()
    for watcher, query, cut in zip(watchers, queries, cuts, strict=True):
        seen = await watcher
        for since in {begin, min(begin + cut, api.house.store.last_seq)}:
            wanted = [seq for seq in seen if seq > since]
            async with watching(api, f"?since={since}{query}") as source:
                assert await told_until(source, api.house.store.last_seq) == wanted, query
            assert [event["seq"] for event in (await api.get(f"/v1/events?since={since}{query}"))["events"]] == wanted, query


async def kinds(api: Api, query: str) -> list[str]:
    """The types of a history's events."""
    return [event["type"] for event in (await api.get(f"/v1/events?{query}"))["events"]]


async def test_a_watcher_of_a_state_gets_who_enters_what_happens_there_and_who_leaves(api: Api) -> None:
    node = (await api.node(name="n1"))["uuid"]
    await api.force(node, provision_state="available")

    async def move(state: str, *events: Event) -> None:
        row = api.house.node(node)
        moved = Event(type="node.provision", node_uuid=node, data={"from": row.provision_state, "to": state})
        await api.house.store.commit(Change(save=[row.changed(provision_state=ProvisionState(state))], events=[*events, moved]))

    async with watching(api, "?provision_state=deploying") as source:
        await tell(api, type="too.early", node_uuid=node)
        await move("deploying")
        await tell(api, type="within", node_uuid=node)
        await move("active", Event(type="last.step", node_uuid=node))
        await tell(api, type="too.late", node_uuid=node)
        await move("deleting")
        await move("deploying")
        await api.ask("DELETE", "/v1/nodes/n1")
        row = api.house.store.table(Node).get(node)
        assert row is not None, "it cannot be deleted in this state"
        await api.house.store.commit(Change(delete=[row], events=[Event(type="node.delete", node_uuid=node)]))
        told = [event.kind for event in await source.take(6)]
    assert told == ["node.provision", "within", "last.step", "node.provision", "node.provision", "node.delete"]
    assert await kinds(api, "provision_state=deploying") == told


async def test_a_change_of_owner_or_shard_is_told_to_both_sides(api: Api) -> None:
    await api.node(name="n1", owner="alice", shard="s1")
    patch = [{"op": "replace", "path": "/owner", "value": "bob"}, {"op": "replace", "path": "/shard", "value": "s2"}]
    async with watching(api, "?owner=alice") as old, watching(api, "?shard=s2") as new:
        assert (await api.ask("PATCH", "/v1/nodes/n1", patch)).status == 200
        await api.ask("PUT", "/v1/nodes/n1/maintenance", {})
        assert (await old.next()).kind == "node.update"
        assert [event.kind for event in await new.take(2)] == ["node.update", "node.maintenance"]
    assert await kinds(api, "owner=alice") == await kinds(api, "shard=s1") == ["node.create", "node.update"]
    assert await kinds(api, "owner=bob") == await kinds(api, "shard=s2") == ["node.update", "node.maintenance"]
    assert await kinds(api, "owner=alice&shard=s2") == [], "both at once, before or after"


async def test_a_deleted_node_is_remembered_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as api:
        await api.node(name="n1", owner="alice")
        await api.node(name="n2", owner="bob")
        gone = (await api.get("/v1/nodes/n1"))["uuid"]
        await api.ask("DELETE", "/v1/nodes/n1")
        await tell(api, type="after.all", node_uuid=gone)
    wanted = ["node.create", "node.delete", "after.all"]
    async with serving(tmp_path) as api:
        assert await kinds(api, "owner=alice") == wanted
        assert await kinds(api, "provision_state=enroll&owner=alice") == wanted
        monkeypatch.setattr(route.Sight, "of", classmethod(lambda cls, _caller: cls(everything=False, project="alice")))
        assert await kinds(api, "") == wanted
        await tell(api, type="of.nobody.known", node_uuid=gone)
        assert await kinds(api, "") == wanted


async def test_what_may_be_read_is_decided_by_whose_the_node_is_now(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.node(name="n1", owner="alice")
    monkeypatch.setattr(route.Sight, "of", classmethod(lambda cls, _caller: cls(everything=False, project="alice")))
    assert await kinds(api, "") == ["node.create"]
    await api.force((await api.get("/v1/nodes/n1"))["uuid"], owner="bob")
    assert await kinds(api, "") == []


async def test_where_a_node_stood_is_not_shown(api: Api) -> None:
    await api.node(name="n1", owner="alice", shard="s1")
    await api.ask("PATCH", "/v1/nodes/n1", [{"op": "replace", "path": "/owner", "value": "bob"}])
    async with watching(api, "?since=0") as source:
        told: list[Told] = await source.take(2)
    for event in [event.data for event in told] + (await api.get("/v1/events"))["events"]:
        assert set(event) == {"type", "node_uuid", "subject", "data", "severity", "user", "time", "id", "seq"}
    (stored,) = await api.house.store.events(since=1)
    assert stored.before is not None
    assert stored.after is not None
    assert (stored.before.owner, stored.after.owner, stored.after.shard) == ("alice", "bob", "s1")


def test_events_from_before_it_was_noted_are_judged_by_the_node_as_it_is() -> None:
    wanted = Filter(sight=Sight(everything=True), states=frozenset([ProvisionState.ACTIVE]), owners=frozenset(["alice"]))
    old = Event(type="node.power", node_uuid="u")
    assert wanted.takes(old, Standing(owner="alice", state="active"))
    assert not wanted.takes(old, Standing(owner="alice", state="available"))
    assert not wanted.takes(old, None)
    left = Event(type="node.provision", node_uuid="u", data={"from": "active", "to": "deleting"})
    assert wanted.takes(left, Standing(owner="alice", state="available"))


async def test_old_deletions_are_told_by_what_they_say(api: Api) -> None:
    """Of a node that was deleted before such things were noted, the event itself tells whose it was."""
    hub = Hub(api.house.store, api_settings().api.watch)
    event = Event(type="node.delete", node_uuid="u", data={"owner": "alice", "shard": "s1"})
    assert hub.standing(event) == Standing(owner="alice", shard="s1")
    assert hub.standing(Event(type="node.power", node_uuid="u")) is None
    await hub.shutdown(None)
