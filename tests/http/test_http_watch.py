"""Streams of events: nothing missed, nothing twice, nobody waited for, and no word to who may not hear it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import socket
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from metald.http.v1 import watch as route
from metald.http.watch.filters import Filter, Sight
from metald.http.watch.frames import Chunk, Frame
from metald.http.watch.hub import End, Hub, Watcher
from metald.model import Event, now
from metald.model.caller import Caller
from metald.model.event import Standing
from metald.store.changes import Change
from metald.turns import Calls
from tests.support.api import Api, api_settings, serving
from tests.support.watching import PATIENCE, EventSource

STREAM = "/v1/events/stream"


@contextlib.asynccontextmanager
async def watching(api: Api, query: str = "", **headers: str) -> AsyncIterator[EventSource]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.get(f"{STREAM}{query}", headers=sent) as answer:
        assert answer.status == 200, await answer.read()
        yield EventSource(answer)


@contextlib.asynccontextmanager
async def api_with(tmp_path: Path, **watch: Any) -> AsyncIterator[Api]:
    settings = api_settings()
    bounds = msgspec.structs.replace(settings.api.watch, **watch)
    async with serving(tmp_path, msgspec.structs.replace(settings, api=msgspec.structs.replace(settings.api, watch=bounds))) as api:
        yield api


async def tell(api: Api, count: int = 1, **event: Any) -> list[int]:
    """Commit events, each in a change of its own; returns their numbers."""
    changes = [Change(events=[Event(**{"type": "test.event", **event})]) for _ in range(count)]
    return sorted(done.events[0].seq for done in await asyncio.gather(*map(api.house.store.commit, changes)))


async def test_what_happens_is_told_at_once_with_its_number(api: Api) -> None:
    async with watching(api) as source:
        node = await api.node(name="n1")
        told = await source.next()
        assert (told.kind, told.data["node_uuid"]) == ("node.create", node["uuid"])
        assert int(told.id) == told.data["seq"] == api.house.store.last_seq
        assert source.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert source.answer.headers["X-Accel-Buffering"] == "no"
        assert "no-store" in source.answer.headers["Cache-Control"]


async def test_history_and_stream_tell_the_same(api: Api) -> None:
    await api.node(name="n1")
    history = await api.get("/v1/events")
    async with watching(api, "?since=0") as source:
        told = await source.take(len(history["events"]))
    assert [event.data for event in told] == history["events"]
    assert history["next"] == history["events"][-1]["seq"] == history["last_seq"]


async def test_fifty_reconnections_in_a_storm_miss_nothing_and_see_nothing_twice(api: Api) -> None:
    seen: list[int] = []

    async def storm() -> None:
        for _ in range(120):
            await tell(api, 20)

    writing = asyncio.create_task(storm())
    last = "0"
    for _ in range(50):
        async with watching(api, Last_Event_ID=last) if seen else watching(api, "?since=0") as source:
            seen += [told.data["seq"] for told in await source.take(7)]
            last = source.last_id
    await writing
    async with watching(api, Last_Event_ID=last) as source:
        seen += [told.data["seq"] for told in await source.take(api.house.store.last_seq - seen[-1])]
    assert seen == list(range(1, api.house.store.last_seq + 1))


async def test_snapshot_then_follow(api: Api) -> None:
    nodes = [await api.node(name=f"n{i}") for i in range(3)]
    async with watching(api, "?snapshot=true") as source:
        shown = await source.until("snapshot.end")
        assert [told.data["uuid"] for told in shown[:-1]] == [node["uuid"] for node in nodes]
        assert all(told.id == "" for told in shown[:-1]), "who is cut off within a snapshot must begin it again"
        assert shown[-1].data == {"seq": api.house.store.last_seq, "nodes": 3}
        await api.ask("DELETE", "/v1/nodes/n1")
        told = await source.next()
        assert (told.kind, told.data["seq"]) == ("node.delete", shown[-1].data["seq"] + 1)
    await tell(api)
    async with watching(api, "?snapshot=true", Last_Event_ID=source.last_id) as again:
        assert (await again.next()).kind == "test.event"


async def test_snapshot_hides_secrets(api: Api) -> None:
    await api.node(name="n1", driver_info={"ipmi_password": "hunter2"})
    async with watching(api, "?snapshot=true&since=0") as source:
        assert "hunter2" not in str(await source.until("snapshot.end"))


async def test_filters(api: Api) -> None:
    one = await api.node(name="n1", shard="s1", owner="alice")
    await api.node(name="n2", shard="s2", owner="bob")
    since = api.house.store.last_seq
    for name in ("n2", "n1"):
        await api.ask("PUT", f"/v1/nodes/{name}/maintenance", {})
        await api.ask("PUT", f"/v1/nodes/{name}/states/provision", {"target": "manage"})
    await api.until(one["uuid"], "manageable")
    await tell(api, type="last.word", node_uuid=one["uuid"])
    for query, kinds in {
        "node=n1&type=node.maintenance": {"node.maintenance"},
        "owner=alice&type=node.maintenance,node.provision": {"node.maintenance", "node.provision"},
        "shard=s1&type=node.*": {"node.maintenance", "node.provision"},
        f"node={one['uuid']}": {"node.maintenance", "node.provision", "last.word"},
        "provision_state=manageable&owner=alice&type=node.provision": {"node.provision"},
    }.items():
        async with watching(api, f"?since={since}&{query}") as source:
            async with asyncio.timeout(PATIENCE):
                last = (
                    "node.provision" if "type" in query and "provision" in query else "node.maintenance" if "type" in query else "last.word"
                )
                found = await source.until(last)
        assert {told.data["node_uuid"] for told in found} == {one["uuid"]}, query
        assert {told.kind for told in found} & kinds, query


async def test_a_node_that_is_gone_says_so_to_its_owners_watchers(api: Api) -> None:
    await api.node(name="n1", owner="alice")
    async with watching(api, "?owner=alice") as source:
        await api.ask("DELETE", "/v1/nodes/n1")
        assert (await source.next()).kind == "node.delete"


async def test_heartbeats_move_the_place_to_resume_from(tmp_path: Path) -> None:
    async with api_with(tmp_path, heartbeat=0.05) as api:
        async with watching(api, "?type=wanted") as source:
            await tell(api, 3)
            pending = asyncio.ensure_future(source.next())
            async with asyncio.timeout(PATIENCE):
                while source.last_id != str(api.house.store.last_seq):
                    await asyncio.sleep(0.01)
            await tell(api, type="wanted")
            assert (await pending).kind == "wanted"
        assert "heartbeat" in source.comments


async def _purge(api: Api) -> None:
    await tell(api, 5)
    while await api.house.store.purge(before=now() + timedelta(seconds=1)):
        pass
    await tell(api, 1)


async def test_a_place_that_is_not_kept_is_410_with_a_remedy(api: Api) -> None:
    await _purge(api)
    answer = await api.ask("GET", f"{STREAM}?since=2")
    assert answer.status == 410
    assert "snapshot=true" in answer.json["metald"]["remedy"]
    assert (await api.ask("GET", f"{STREAM}?since=99999")).status == 410


async def test_an_event_source_that_comes_back_too_late_is_told_of_the_gap(api: Api) -> None:
    await _purge(api)
    async with watching(api, Last_Event_ID="2") as source:
        gap = await source.next()
        assert (gap.kind, gap.data["since"], gap.data["next"]) == ("gap", 2, 6)
        assert (await source.next()).data["seq"] == 6
    async with watching(api, Last_Event_ID="99999") as source:
        assert (await source.next()).kind == "gap"
        await tell(api)
        assert (await source.next()).data["seq"] == 7


@pytest.mark.parametrize("query", ["since=-1", "since=x", "type=no*de", "provision_state=odd", "node=nobody", "node=,", "colour=red"])
async def test_wrong_questions_are_refused(api: Api, query: str) -> None:
    assert (await api.ask("GET", f"{STREAM}?{query}")).status in (400, 404)


async def test_a_wrong_last_event_id_is_refused(api: Api) -> None:
    for wrong in ("x", "-1", "9" * 30):
        answer = await api.ask("GET", STREAM, headers={"Last-Event-ID": wrong})
        assert (answer.status, answer.json["metald"]["field"]) == (400, "Last-Event-ID")


@pytest.mark.parametrize("packed", [False, True])
async def test_who_does_not_read_is_cut_off_with_a_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr("metald.http.watch.sinks._LINGER", 5 * PATIENCE)
    async with api_with(tmp_path, buffer=100_000, stall=0.2) as api:
        receiver = socket.socket()
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(4 * PATIENCE):
            await loop.sock_connect(receiver, (api.client.host, api.client.port))
            accepted = "Accept-Encoding: gzip\r\n" if packed else ""
            host = f"Host: {api.client.host}:{api.client.port}\r\nConnection: close\r\n"
            await loop.sock_sendall(receiver, f"GET {STREAM} HTTP/1.1\r\n{host}{accepted}\r\n".encode())
            answer = await loop.sock_recv(receiver, 100)
            async with watching(api) as healthy:
                heard = 0
                for _ in range(60):
                    # what repeats nothing does not get much smaller
                    texts = [base64.b85encode(random.randbytes(25_000)).decode() for _ in range(8)]
                    await asyncio.gather(*(tell(api, data={"x": text}) for text in texts))
                    heard += len(await healthy.take(8))
                assert heard == 480
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # it reads again
            while piece := await loop.sock_recv(receiver, 1 << 20):
                answer += piece
        receiver.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"200 OK" in head
        text = _unchunked(body)
        if packed:
            unpack = zlib.decompressobj(31)
            text = unpack.decompress(text)
            assert unpack.eof, "cut off, but not torn"
        assert b'"code":"slow-consumer"' in text[-2000:]


def _unchunked(body: bytes) -> bytes:
    """What was sent in chunks (RFC 9112, 7.1)."""
    found = []
    while body != b"0\r\n\r\n":
        assert body, "cut off, but not torn"
        size, _, rest = body.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(found)


async def test_a_watchers_queue_is_bounded_and_let_go() -> None:
    watcher = Watcher(0, 1000, Calls(1), lambda _chunk: False)
    chunks = [Chunk([Frame(Event(type="t", data={"x": "y" * 400}, seq=i))]) for i in range(1, 9)]
    for chunk in chunks:
        watcher.offer(chunk)
    assert watcher.end is End.SLOW
    assert await watcher.next(1.0) is None


async def test_who_waits_for_nothing_else_is_sent_to_at_once_in_turns() -> None:
    """A few in each round of the loop; what cannot be sent at once, and all behind it, is for the watcher's task."""
    calls, sent = Calls(2), []
    sends = True

    def taken(chunk: Chunk) -> bool:
        if sends:
            sent.append(chunk.last_seq)
        return sends

    watchers = [Watcher(0, 10_000, calls, taken) for _ in range(5)]
    waiting = [asyncio.create_task(watcher.next(PATIENCE)) for watcher in watchers]
    await asyncio.sleep(0)
    chunks = [Chunk([Frame(Event(type="t", seq=i))]) for i in range(1, 4)]
    for watcher in watchers:
        watcher.offer(chunks[0])
    assert sent == [1, 1]
    watchers[0].offer(chunks[1])
    while len(sent) < 6:
        await asyncio.sleep(0)
    assert (sorted(sent), [watcher.position for watcher in watchers]) == ([1, 1, 1, 1, 1, 2], [2, 1, 1, 1, 1])
    sends = False
    watchers[1].offer(chunks[2])
    assert await waiting[1] is chunks[2]
    sends = True
    watchers[1].offer(chunks[2])
    assert not any(task.done() for task in (waiting[0], *waiting[2:]))
    for watcher in watchers:
        watcher.stop(End.STOPPING)
    assert [await task for task in (waiting[0], *waiting[2:])] == [None] * 4


async def test_too_many_watchers_are_told_so(tmp_path: Path) -> None:
    async with api_with(tmp_path, connections=1) as api, watching(api):
        answer = await api.ask("GET", STREAM)
        assert (answer.status, "api.watch.connections" in answer.fault) == (503, True)
        assert answer.headers["Retry-After"]


async def test_the_end_of_the_daemon_ends_streams_cleanly(tmp_path: Path) -> None:
    async with api_with(tmp_path) as api:
        async with watching(api) as source, api.client.ws_connect(STREAM) as ws:
            await ws.receive_json()
            await tell(api)
            await source.next()
            await ws.receive_json()
            closing = asyncio.create_task(api.client.server.close())
            last = await source.next()
            assert (last.kind, last.data["code"]) == ("end", "stopping")
            assert (await ws.receive_json())["data"]["code"] == "stopping"
            assert (await ws.receive()).type is WSMsgType.CLOSE
            with pytest.raises(StopAsyncIteration):
                await source.next()
        await closing


async def test_websocket(api: Api) -> None:
    await tell(api)
    async with api.client.ws_connect(f"{STREAM}?since=0&snapshot=false") as ws:
        beat = await ws.receive_json(timeout=PATIENCE)
        assert (beat["kind"], beat["seq"]) == ("heartbeat", 0)
        assert (await ws.receive_json(timeout=PATIENCE))["seq"] == 1
        await ws.send_str("hello")
        await tell(api)
        assert (await ws.receive_json(timeout=PATIENCE))["seq"] == 2


async def test_a_page_of_another_origin_opens_no_websocket(api: Api) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await api.client.ws_connect(STREAM, origin="https://evil.example")
    assert refused.value.status == 403
    async with api.client.ws_connect(STREAM, origin=f"http://{api.client.host}:{api.client.port}"):
        pass


async def test_a_watcher_that_left_is_forgotten(tmp_path: Path) -> None:
    async with api_with(tmp_path, heartbeat=0.02, connections=1) as api:
        async with watching(api), api.client.get(STREAM) as refused:
            assert refused.status == 503
        async with asyncio.timeout(PATIENCE):
            while (await api.ask("GET", f"{STREAM}?since=99")).status == 503:
                await asyncio.sleep(0.02)


async def test_a_caller_hears_of_its_own_nodes_alone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.node(name="n1", owner="alice")
    await api.node(name="n2", owner="bob")
    await tell(api, type="of.nothing")
    await tell(api, type="last.word", node_uuid=(await api.get("/v1/nodes/n1"))["uuid"])
    monkeypatch.setattr(route.Sight, "of", classmethod(lambda cls, _caller: cls(everything=False, project="alice")))
    async with watching(api, "?since=0") as source:
        assert [told.kind for told in await source.take(2)] == ["node.create", "last.word"]
    assert [event["type"] for event in (await api.get("/v1/events"))["events"]] == ["node.create", "last.word"]
    assert (await api.ask("GET", f"{STREAM}?node=n2")).status == 404


def test_sight() -> None:
    everyone = Sight.of(Caller())
    assert everyone.sees(None)
    mine = Sight.of(Caller(system=False, project="p"))
    assert mine.sees(Standing(owner="p"))
    assert not mine.sees(Standing(lessee="p"))  # a node's history is its owner's
    assert not mine.sees(Standing(owner="q"))
    assert not mine.sees(None)
    assert not Sight.of(Caller(system=False)).sees(Standing())


def test_leaving_a_state_is_told_to_its_watchers() -> None:
    wanted = Filter(sight=Sight(everything=True), states=frozenset(["available"]))  # type: ignore[list-item]
    left = Event(type="node.provision", node_uuid="u", data={"from": "available", "to": "deploying"})
    assert wanted.takes(left, Standing(state="deploying"))
    assert not wanted.takes(Event(type="node.power", node_uuid="u"), Standing(state="deploying"))


async def test_groups_are_forgotten_with_their_last_watcher(api: Api) -> None:
    hub = Hub(api.house.store, api_settings().api.watch)
    wanted = Filter(sight=Sight(everything=True), nodes=frozenset(["a", "b"]))
    watchers = [hub.join(wanted, 0, lambda _chunk: False), hub.join(wanted, 0, lambda _chunk: False)]
    for watcher in watchers:
        hub.leave(wanted, watcher)
    assert not hub._groups
    assert not hub._by_node
    await hub.shutdown(None)


async def test_watchers_of_a_storm_are_told_less_often(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    loop = asyncio.get_running_loop()

    def call_later(wait: float, *_: object) -> asyncio.TimerHandle:
        waits.append(wait)
        return asyncio.TimerHandle(0.0, lambda: None, (), loop)

    monkeypatch.setattr(loop, "call_later", call_later)
    monkeypatch.setattr(loop, "time", lambda: 1000.0)
    hub = Hub(api.house.store, api_settings().api.watch)
    hub.join(Filter(sight=Sight(everything=True)), 0, lambda _chunk: False)
    told = [Event(type="node.power", node_uuid="u", seq=number) for number in range(1, 1004)]
    for first, last in ((0, 1), (1, 1001), (1001, 1002), (1002, 1003)):  # one at once, then a storm, then its end
        hub._tell(told[first:last])
        if waits:
            hub._hand_over()  # as the timer would
    await hub.shutdown(None)
    assert [round(wait, 1) for wait in waits] == [0.1, 0.2, 0.1]
