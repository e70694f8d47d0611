"""Watching over a WebSocket: what Server-Sent Events promise, in messages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from aiohttp.client_ws import ClientWebSocketResponse

from tests.http.test_http_watch import STREAM, api_with, tell
from tests.http.test_http_watch_past import purge
from tests.support.api import Api
from tests.support.watching import PATIENCE


@contextlib.asynccontextmanager
async def listening(api: Api, query: str = "", **headers: str) -> AsyncIterator[ClientWebSocketResponse]:
    """A WebSocket that shows itself alive with a heartbeat or a snapshot first."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.ws_connect(f"{STREAM}{query}", headers=sent) as ws:
        yield ws


async def heard(ws: ClientWebSocketResponse, count: int) -> list[Any]:
    """The next messages, without heartbeats."""
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            message = await ws.receive_json()
            if message.get("kind") != "heartbeat":
                found.append(message)
    return found


async def test_filters(api: Api) -> None:
    node = (await api.node(name="n1", owner="alice", shard="s1"))["uuid"]
    await api.node(name="n2", owner="bob", shard="s2")
    queries = ("node=n1", f"node={node}&type=last.*", "owner=alice", "shard=s1&owner=alice", "provision_state=enroll&shard=s1")
    async with contextlib.AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(listening(api, f"?{query}")) for query in queries]
        for watcher in watchers:
            assert (await watcher.receive_json(timeout=PATIENCE))["kind"] == "heartbeat"
        for name in ("n2", "n1"):
            await api.ask("PUT", f"/v1/nodes/{name}/maintenance", {})
        await tell(api, type="last.word", node_uuid=node)
        for query, watcher in zip(queries, watchers, strict=True):
            wanted = ["last.word"] if "last" in query else ["node.maintenance", "last.word"]
            assert [(event["type"], event["node_uuid"]) for event in await heard(watcher, len(wanted))] == [(kind, node) for kind in wanted]


@pytest.mark.parametrize("query", ["since=-1", "since=x", "type=no*de", "provision_state=odd", "node=nobody", "colour=red"])
async def test_wrong_questions_are_refused_before_the_upgrade(api: Api, query: str) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await api.client.ws_connect(f"{STREAM}?{query}")
    assert refused.value.status in (400, 404)


async def test_a_resumed_socket_misses_nothing(api: Api) -> None:
    await tell(api, 5)
    for resumed in (listening(api, "?since=2"), listening(api, Last_Event_ID="2"), listening(api, "?since=4", Last_Event_ID="2")):
        async with resumed as ws:
            assert [event["seq"] for event in await heard(ws, 3)] == [3, 4, 5]


async def test_heartbeats_move_the_place_to_resume_from(tmp_path: Path) -> None:
    async with api_with(tmp_path, heartbeat=0.05) as api, listening(api, "?type=wanted") as ws:
        await tell(api, 3)
        async with asyncio.timeout(PATIENCE):
            while (await ws.receive_json()) != {"kind": "heartbeat", "seq": 3, "data": {}}:
                pass


async def test_what_is_not_kept_is_410_or_a_gap(api: Api) -> None:
    await tell(api, 5)
    await purge(api)
    await tell(api, 1)
    for since in (2, 99):
        with pytest.raises(WSServerHandshakeError) as refused:
            await api.client.ws_connect(f"{STREAM}?since={since}")
        assert refused.value.status == 410
    async with listening(api, Last_Event_ID="2") as ws:
        gap, event = await heard(ws, 2)
        assert (gap["kind"], gap["seq"], gap["data"]["since"], gap["data"]["next"]) == ("gap", 5, 2, 6)
        assert event["seq"] == 6
    async with listening(api, Last_Event_ID="99") as ws:
        (gap,) = await heard(ws, 1)
        assert (gap["kind"], gap["data"]["next"]) == ("gap", 7)
        await tell(api)
        assert (await heard(ws, 1))[0]["seq"] == 7


async def test_snapshot_then_follow(api: Api) -> None:
    nodes = [await api.node(name=f"n{i}", owner="alice", driver_info={"ipmi_password": "hunter2"}) for i in range(3)]
    await api.node(name="other")
    async with listening(api, "?snapshot=true&owner=alice") as ws:
        *shown, end = await heard(ws, 4)
        assert [message["kind"] for message in shown] == ["snapshot.node"] * 3
        assert [message["data"]["uuid"] for message in shown] == [node["uuid"] for node in nodes]
        assert "hunter2" not in str(shown)
        assert not any("seq" in message for message in shown), "who is cut off within a snapshot must begin it again"
        assert (end["kind"], end["seq"], end["data"]) == ("snapshot.end", 4, {"seq": 4, "nodes": 3})
        await api.ask("DELETE", "/v1/nodes/n1")
        (event,) = await heard(ws, 1)
        assert (event["type"], event["seq"]) == ("node.delete", 5)
    async with listening(api, "?snapshot=true&owner=alice", Last_Event_ID="4") as ws:
        assert (await heard(ws, 1))[0]["type"] == "node.delete"


class Sleeper:
    """A client that opens a stream and does not read, until it does. A server's frames are not masked (RFC 6455, 5.1)."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)

    async def open(self, api: Api, *, plain: bool = False) -> None:
        loop, host = asyncio.get_running_loop(), f"{api.client.host}:{api.client.port}"
        await loop.sock_connect(self._socket, (api.client.host, api.client.port))
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        asked = "" if plain else upgrade
        await loop.sock_sendall(self._socket, f"GET {STREAM} HTTP/1.1\r\nHost: {host}\r\n{asked}\r\n".encode())
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._data += await loop.sock_recv(self._socket, 1)
        assert (b" 200 " if plain else b" 101 ") in self._data

    async def wake(self) -> list[tuple[int, bytes]]:
        """Read to the end; opcodes and payloads."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        data = b""
        while piece := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20):
            data += piece
        frames = []
        while data:
            size, begin = data[1], 2
            if size > 125:
                begin = 4 if size == 126 else 10
                size = int.from_bytes(data[2:begin])
            frames.append((data[0] & 15, data[begin : begin + size]))
            assert len(frames[-1][1]) == size, "cut off, but not torn"
            data = data[begin + size :]
        return frames

    def close(self) -> None:
        self._socket.close()


def large() -> str:
    """Text that fills buffers."""
    return base64.b85encode(random.randbytes(25_000)).decode()


@pytest.mark.parametrize("heartbeat", [15.0, 0.05])
async def test_who_does_not_read_is_cut_off_with_a_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heartbeat: float) -> None:
    """And with nothing else: heartbeats that are not answered, because they are not read, are no reason of their own."""
    monkeypatch.setattr("metald.http.watch.sinks._LINGER", 5 * PATIENCE)
    async with api_with(tmp_path, buffer=100_000, stall=0.3, heartbeat=heartbeat) as api:
        sleeper = Sleeper()
        async with asyncio.timeout(4 * PATIENCE):
            await sleeper.open(api)
            async with listening(api) as healthy:
                for _ in range(60):
                    await asyncio.gather(*(tell(api, data={"x": large()}) for _ in range(8)))
                    await heard(healthy, 8)
            *events, last, close = await sleeper.wake()
        sleeper.close()
        told = [message for message in (json.loads(payload) for _, payload in events) if "type" in message]
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        assert len(told) < 480
        word = json.loads(last[1])
        assert (word["kind"], word["data"]["code"]) == ("end", "slow-consumer")
        assert word["data"]["remedy"]
        assert (close[0], int.from_bytes(close[1][:2]), close[1][2:]) == (8, 1001, b"end")


@pytest.mark.parametrize("plain", [True, False])
async def test_who_never_reads_again_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    monkeypatch.setattr("metald.http.watch.sinks._LINGER", 0.1)
    async with api_with(tmp_path, buffer=100_000, stall=0.2) as api:
        sleeper = Sleeper()
        async with asyncio.timeout(4 * PATIENCE):
            await sleeper.open(api, plain=plain)
            server = api.client.server.runner.server
            assert server is not None
            begun = set(server.connections)
            for _ in range(60):
                await asyncio.gather(*(tell(api, data={"x": large()}) for _ in range(8)))
            while begun & set(server.connections):
                await asyncio.sleep(0.02)
        sleeper.close()


async def test_a_client_that_closes_is_answered_and_forgotten(tmp_path: Path) -> None:
    async with api_with(tmp_path, connections=1) as api:
        ws = await api.client.ws_connect(STREAM)
        assert (await ws.receive_json(timeout=PATIENCE))["kind"] == "heartbeat"
        assert (await api.ask("GET", STREAM)).status == 503
        await ws.close()
        assert ws.close_code == 1000
        async with asyncio.timeout(PATIENCE):
            while (await api.ask("GET", f"{STREAM}?since=99")).status == 503:
                await tell(api)


async def test_messages_of_a_client_that_are_too_large_end_it_alone(api: Api) -> None:
    async with listening(api) as loud, listening(api) as other:
        await loud.send_str("x" * 5000)
        async with asyncio.timeout(PATIENCE):
            while (message := await loud.receive()).type is WSMsgType.TEXT:
                pass
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
        await tell(api)
        assert (await heard(other, 1))[0]["seq"] == 1
