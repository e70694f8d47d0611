"""Watchers that come and go amid a storm, each with a filter of its own: nothing missed, nothing twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from metald.model import Event, Node, ProvisionState
from metald.store.changes import Change
from tests.http.test_http_watch import STREAM, api_with, watching
from tests.http.test_http_watch_standings import told_until
from tests.support.api import Api
from tests.support.watching import PATIENCE

RECONNECTIONS = 50
STATES = [ProvisionState(state) for state in ("available", "deploying", "active", "deleting")]


class Fleet:
    """Nodes that move on and change hands without an end."""

    def __init__(self, api: Api) -> None:
        self.store = api.house.store
        self.rng = random.Random(7)
        self.uuids: list[str] = []

    async def storm(self) -> None:
        made = await self.store.commit(Change(save=[Node(driver="fake-hardware", owner="alice", shard="s1") for _ in range(8)]))
        self.uuids = [node.uuid for node in made.saved]
        while True:
            await asyncio.gather(*(self._move(uuid) for uuid in self.uuids))
            await asyncio.sleep(0.005)  # so that watchers come up with it now and then

    async def _move(self, uuid: str) -> None:
        node = self.store.table(Node).get(uuid)
        assert node is not None
        state, owner, shard = self.rng.choice(STATES), self.rng.choice(["alice", "bob"]), self.rng.choice(["s1", "s2"])
        events = [
            Event(type="node.step", node_uuid=uuid),
            Event(type="node.provision", node_uuid=uuid, data={"from": node.provision_state, "to": state}),
        ]
        await self.store.commit(Change(save=[node.changed(provision_state=state, owner=owner, shard=shard)], events=events))
        await self.store.commit(Change(events=[Event(type="node.power_seen", node_uuid=uuid), Event(type="of.nothing")]))


Leg = Callable[[Api, str, int, int], Awaitable[tuple[list[int], int]]]
"""Watch from a number on until there are a few events or none come: their numbers, and where to go on from."""


async def by_sse(api: Api, query: str, since: int, count: int) -> tuple[list[int], int]:
    seen: list[int] = []
    number = since
    async with watching(api, f"?{query}", Last_Event_ID=str(since)) as source, asyncio.timeout(PATIENCE):
        async for line in source.answer.content:
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                assert json.loads(line[6:])["seq"] == number
                seen.append(number)
            elif line == b"\n" and number > since and (len(seen) >= count or number not in seen):
                return seen, number
    raise AssertionError("the stream ended")


async def by_socket(api: Api, query: str, since: int, count: int) -> tuple[list[int], int]:
    seen: list[int] = []
    async with api.client.ws_connect(f"{STREAM}?{query}&since={since}") as ws, asyncio.timeout(PATIENCE):
        while True:
            message = await ws.receive_json()
            if "type" in message:
                seen.append(message["seq"])
            if message["seq"] > since and (len(seen) >= count or "kind" in message):
                return seen, message["seq"]


async def pages(api: Api, query: str) -> AsyncIterator[int]:
    since = 0
    while (found := await api.get(f"/v1/events?since={since}&limit=300&{query}"))["next"] > since:
        for event in found["events"]:
            yield event["seq"]
        since = found["next"]


@pytest.mark.parametrize("leg", [by_sse, by_socket])
async def test_fifty_reconnections_of_each_filter_in_a_storm(tmp_path: Path, leg: Leg) -> None:
    async with api_with(tmp_path, heartbeat=0.05) as api:
        fleet = Fleet(api)
        writing = asyncio.create_task(fleet.storm())
        async with asyncio.timeout(PATIENCE):
            while api.house.store.last_seq == 0:
                await asyncio.sleep(0.01)
        queries = ["provision_state=active", "owner=alice", "shard=s2", "type=node.step", f"node={fleet.uuids[0]}"]
        queries += [
            "owner=bob&shard=s1&provision_state=deploying,deleting&type=node.*",
            f"node={fleet.uuids[1]},{fleet.uuids[2]}&owner=alice",
        ]

        async def follow(query: str) -> tuple[list[int], int]:
            seen: list[int] = []
            since, rng = 0, random.Random(query)
            for _ in range(RECONNECTIONS):
                more, since = await leg(api, query, since, rng.choice([1, 3, 40, 200]))
                seen += more
            return seen, since

        followed = await asyncio.gather(*map(follow, queries))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        for query, (seen, since) in zip(queries, followed, strict=True):
            async with watching(api, f"?since={since}&{query}") as source:
                seen += await told_until(source, api.house.store.last_seq)
            assert seen == [seq async for seq in pages(api, query)], query
            assert len(seen) > RECONNECTIONS
