"""The gate: slow heads, slow bodies, slow readers, too many connections; and raw bytes that try to smuggle something past it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metald.config import Api as ApiSettings
from metald.http import gate as gates
from metald.http import server
from metald.http.app import GATE
from metald.http.gate import Gate
from tests.support.api import Api, api_settings, serving

SLOW = 1000
"""Clients that hang about in one test."""
HEAD = b"GET /v1 HTTP/1.1\r\nHost: metald\r\n"


class Door:
    """An API behind its gate, for raw connections."""

    def __init__(self, api: Api, gate: Gate, port: int) -> None:
        self.api = api
        self.gate = gate
        self.port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for writer in self._writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def say(self, data: bytes) -> bytes:
        """Everything that comes back for some bytes until the daemon closes."""
        reader, writer = await self.connect()
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                return await reader.read()
        return b""


@contextlib.asynccontextmanager
async def door(tmp_path: Path, limit: int | None = None, **settings: Any) -> AsyncIterator[Door]:
    async with serving(tmp_path, api_settings(**settings)) as api:
        application = api.client.server.app  # type: ignore[attr-defined]
        gate = application[GATE]
        gate._limit = limit
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        async with server.serving(application, [listener], None):
            at = Door(api, gate, listener.getsockname()[1])
            try:
                yield at
            finally:
                await at.hang_up()


def statuses(answer: bytes) -> list[int]:
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))]


async def test_a_slow_head_is_answered_408_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(tmp_path, header_timeout=0.2) as at:
        with caplog.at_level(logging.INFO, "metald.http"):
            answer = await at.say(HEAD)
        assert statuses(answer) == [408]
        assert b'"error_message"' in answer
        assert [r for r in caplog.records if "408" in r.getMessage()] == caplog.records[-1:]
        assert await at.say(b"") == b""
        assert len(at.gate) == 0


async def test_bytes_one_by_one_do_not_prolong_the_deadline(tmp_path: Path) -> None:
    async with door(tmp_path, header_timeout=0.3) as at:
        reader, writer = await at.connect()

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in HEAD * 100:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(20):
            assert statuses(await reader.read()) == [408]
        dripping.cancel()
        writer.close()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_an_endless_head_is_not_kept(tmp_path: Path) -> None:
    async with door(tmp_path, header_timeout=5.0) as at:
        answer = await at.say(HEAD + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 8000) for n in range(400)))
        assert statuses(answer) in ([400], [408], [])


async def test_a_silent_connection_between_requests_is_closed(tmp_path: Path) -> None:
    async with door(tmp_path, idle_timeout=0.2) as at:
        assert statuses(await at.say(HEAD + b"\r\n")) == [200]


async def test_a_slow_body_is_answered_408(tmp_path: Path) -> None:
    async with door(tmp_path, body_timeout=0.1) as at:
        head = b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
        assert statuses(await at.say(head)) == [408]


async def test_an_answer_that_nobody_takes_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(tmp_path, write_timeout=0.2) as at:
        for n in range(12):
            await at.api.node(name=f"n{n}", extra={"fill": "x" * 900_000})
        reader, writer = await at.connect()
        transport: Any = writer.transport
        transport.pause_reading()
        gone = asyncio.Event()
        leave = at.gate.leave

        def left(guard: Any) -> None:
            leave(guard)
            gone.set()

        at.gate.leave = left  # type: ignore[method-assign]
        with caplog.at_level(logging.INFO, "metald.http.gate"):
            writer.write(b"GET /v1/nodes/detail HTTP/1.1\r\nHost: x\r\nX-OpenStack-Ironic-API-Version: latest\r\n\r\n")
            async with asyncio.timeout(20):
                await gone.wait()
        assert "not taken" in caplog.text
        transport.abort()
        assert reader is not None


async def test_above_the_limit_the_oldest_that_waits_makes_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(tmp_path, limit=3) as at:
        held = [await at.connect() for _ in range(3)]
        with caplog.at_level(logging.WARNING, "metald.http.gate"):
            assert statuses(await at.say(HEAD + b"Connection: close\r\n\r\n")) == [200]
        assert "max_connections" in caplog.text
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await held[0][0].read() == b""
        assert len(at.gate) == 2
        for _, writer in held:
            writer.close()


async def test_bodies_of_slow_clients_are_bounded_in_sum(tmp_path: Path) -> None:
    async with door(tmp_path, max_buffered=200_000) as at:
        writers = []
        for _ in range(6):
            _, writer = await at.connect()
            writer.write(b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 60_000)
            await writer.drain()
            writers.append(writer)
        assert statuses(await at.say(HEAD + b"Connection: close\r\n\r\n")) == [200]
        assert at.gate._held_sum <= 200_000
        for writer in writers:
            writer.close()


async def test_a_thousand_slow_clients_keep_nobody_out(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with door(tmp_path, limit=SLOW // 2) as at:
        hanging = []
        for n in range(SLOW):
            _, writer = await at.connect()
            body = b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
            writer.write((HEAD, body, b"")[n % 3])
            hanging.append(writer)
            if n % 100 == 99:
                assert statuses(await at.say(HEAD + b"Connection: close\r\n\r\n")) == [200]
        assert len(at.gate) <= SLOW // 2
        assert at.gate.shed >= SLOW // 2
        for writer in hanging:
            writer.transport.abort()


def test_there_are_never_more_places_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, expected in ((1024, 768), (256, 8), (100_000, 20_000), (-1, 20_000), (8000, 6000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, files=files: (files, files))
        assert gates.places(ApiSettings()) == expected
    assert gates.places(msgspec.structs.replace(ApiSettings(), max_connections=10)) == 10


CHUNKED = b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n"
RAW: list[tuple[str, bytes]] = [
    ("length and chunks", CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED),
    ("two lengths", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + SMUGGLED),
    ("a list of lengths", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\n{}"),
    ("a signed length", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}"),
    ("a negative length", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}"),
    ("a huge length", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
    ("a space before the colon", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nContent-Length : 2\r\n\r\n{}"),
    ("an odd coding", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", b"POST /v1/chassis HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunks without a size", CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n"),
    ("a negative chunk", CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n"),
    ("a chunk beyond 64 bits", CHUNKED + b"\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    ("a chunk longer than its size", CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n"),
    ("a folded header", b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n"),
    ("a bare CR in a value", b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: b\rX-C: d\r\n\r\n"),
    ("a NUL in a value", b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: b\0\r\n\r\n"),
    ("two hosts", b"GET /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
    ("no host", b"GET /v1 HTTP/1.1\r\n\r\n"),
    ("a huge header", b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n"),
    ("very many headers", b"GET /v1 HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n"),
    ("a huge line", b"GET /v1/" + b"n" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/9", b"GET /v1 HTTP/9.9\r\nHost: x\r\n\r\n"),
    ("a header without a name", b"GET /v1 HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n"),
    ("line feeds alone", b"GET /v1 HTTP/1.1\nHost: x\nContent-Length: 2\nTransfer-Encoding: chunked\n\n"),
]


@pytest.mark.parametrize(("name", "sent"), RAW, ids=[name for name, _ in RAW])
async def test_what_is_not_plain_http_is_refused_once_and_smuggles_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, sent: bytes
) -> None:
    async with door(tmp_path, header_timeout=0.5, body_timeout=0.3, idle_timeout=0.3) as at:
        with caplog.at_level(logging.INFO, "metald"):
            answer = await at.say(sent)
        assert len(statuses(answer)) == 1, answer
        assert 400 <= statuses(answer)[0] < 500, answer
        assert b"Traceback" not in answer
        refusals = [r for r in caplog.records if r.name.startswith("metald.http")]
        # What is no HTTP at all, as scanners send it, is a matter for the debug log.
        assert len(refusals) == (0 if name in ("another protocol", "TLS") else 1), [r.getMessage() for r in refusals]
        assert not any(r.exc_info for r in refusals)
        assert (await at.api.get("/v1/chassis"))["chassis"] == []


@pytest.mark.parametrize(
    "target", ["http://evil.example/v1/nodes", "//evil.example/v1/nodes", "*", "nodes", "/v1/../../etc/passwd", "/%2e%2e/x"]
)
async def test_odd_targets_stay_inside(tmp_path: Path, target: str) -> None:
    async with door(tmp_path) as at:
        answer = await at.say(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert len(statuses(answer)) == 1
        assert statuses(answer)[0] in (200, 400, 404), answer
        assert b"evil.example/v1" not in answer


async def test_a_crowd_of_new_connections_queues_in_the_kernel_and_is_let_in_a_few_at_a_time(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        crowd = [socket.socket() for _ in range(300)]
        try:
            for connection in crowd:  # the loop has no chance to accept any meanwhile
                connection.settimeout(30)
                connection.connect(("127.0.0.1", at.port))
            most = 0
            while len(at.gate) < len(crowd):
                before = len(at.gate)
                await asyncio.sleep(0)
                most = max(most, len(at.gate) - before)
            assert most <= 8
        finally:
            for connection in crowd:
                connection.close()


CHANGE = b"POST /v1/chassis HTTP/1.1\r\nHost: metald\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_crowd_of_changes_does_not_keep_a_read_waiting(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        crowd = [await at.connect() for _ in range(200)]
        reader, writer = await at.connect()
        for _, changing in crowd:
            changing.write(CHANGE)
        writer.write(HEAD + b"\r\n")
        changed: list[bytes] = []

        async def one(answer: asyncio.StreamReader) -> None:
            changed.append(await answer.readline())

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for answer, _ in crowd:
                group.create_task(one(answer))
            assert b" 200 " in await reader.readline()
            assert len(changed) < 100, "most of them came first, and are answered after it"
        assert len(changed) == 200
        assert all(b" 201 " in line for line in changed)


async def test_what_comes_while_a_change_waits_for_its_turn_is_not_lost(tmp_path: Path) -> None:
    async with door(tmp_path, header_timeout=30.0) as at:
        crowd = [await at.connect() for _ in range(40)]
        half = len(CHANGE) // 2
        for _, writer in crowd:
            writer.write(CHANGE[:half])
        await asyncio.sleep(0)
        for _, writer in crowd:
            writer.write(CHANGE[half:])
            writer.write(HEAD + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(reader.read() for reader, _ in crowd))
        assert [answer.startswith(b"HTTP/1.1 201 ") and b"HTTP/1.1 200 " in answer for answer in answers] == [True] * 40


async def test_who_leaves_while_its_change_waits_takes_no_turn_from_others(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        crowd = [await at.connect() for _ in range(60)]
        for _, writer in crowd:
            writer.write(CHANGE.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n"))
        for _, writer in crowd[::2]:
            writer.transport.abort()
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(reader.read() for reader, _ in crowd[1::2]))
        assert [statuses(answer) for answer in answers] == [[201]] * 30
        async with asyncio.timeout(60):
            while len(at.gate):
                await asyncio.sleep(0.01)


async def test_the_head_of_a_change_that_waits_is_not_late(tmp_path: Path) -> None:
    """What metald makes wait has no deadline meanwhile."""
    async with door(tmp_path, header_timeout=0.2) as at:
        turns: list[Any] = []
        at.gate.changes.soon = turns.append  # type: ignore[method-assign]
        reader, writer = await at.connect()
        writer.write(CHANGE)
        async with asyncio.timeout(30):
            while not turns:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            turns.pop()()
            assert b" 201 " in await reader.readline()
