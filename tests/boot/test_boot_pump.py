"""Sending files to many sockets: whole, slowly, from a cold disk, to clients that stall and to clients that go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from metald.boot import pump as module
from metald.boot.pump import Pump, Way

DATA = os.urandom(9 << 20)


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    made = Pump()
    yield made
    assert not made._ways
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    for each in (near, far):
        each.setblocking(False)
    with near, far:
        yield near, far


async def received(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20)):
        found += piece
    return bytes(found)


async def test_many_at_once(pump: Pump, file: int) -> None:
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(20)]
        reading = [asyncio.ensure_future(received(far, len(DATA))) for _, far in pairs]

        async def one(near: socket.socket) -> None:
            with Way(pump, near.fileno(), 60.0) as way:
                assert await way.send(file, 0, 5) == 5
                assert await way.send(file, 5, len(DATA) - 5) == len(DATA) - 5

        await asyncio.gather(*(one(near) for near, _ in pairs))
        assert all(data == DATA for data in await asyncio.gather(*reading))


@pytest.mark.parametrize("known", [True, False], ids=["told by the kernel", "not told"])
async def test_what_is_not_in_memory_is_read_in_a_thread(pump: Pump, file: int, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    cold, read = {"yet": True}, []

    def preadv(*_: object) -> int:
        if not known:
            raise OSError(95, "Operation not supported")
        if cold["yet"]:
            raise BlockingIOError
        return 1

    def pread(descriptor: int, size: int, at: int) -> bytes:
        read.append((at, size))
        cold["yet"] = False
        assert descriptor != file
        return b""

    monkeypatch.setattr(module.os, "preadv", preadv)
    monkeypatch.setattr(module.os, "pread", pread)
    with pair() as (near, far), Way(pump, near.fileno(), 60.0) as way:
        reading = asyncio.ensure_future(received(far, 1000))
        assert await way.send(file, 100, 1000) == 1000
        assert await reading == DATA[100:1100]
    assert read == ([(100, 1000)] if known else [])


async def test_a_disk_that_fails(pump: Pump, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_is_warm", lambda *_: False)
    monkeypatch.setattr(module.os, "pread", fail)
    with pair() as (near, _), Way(pump, near.fileno(), 60.0) as way:
        with pytest.raises(OSError, match="Input/output"):
            await way.send(file, 0, 1000)
        assert way.went == 0


async def test_whoever_stalls_is_given_up(pump: Pump, file: int) -> None:
    with pair() as (near, _), Way(pump, near.fileno(), 0.2) as way:
        with pytest.raises(TimeoutError):
            await way.send(file, 0, len(DATA))
        assert 0 < way.went < len(DATA)


async def test_whoever_is_slow_but_goes_on_is_not(pump: Pump, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STALLED", 64 << 10)
    with pair() as (near, far), Way(pump, near.fileno(), 3600.0) as way:
        sending = asyncio.ensure_future(way.send(file, 0, len(DATA)))
        await asyncio.sleep(0)
        for _ in range(3):  # each look finds that something went since the last one
            before = way.went
            while way.went < before + (64 << 10):
                await asyncio.get_running_loop().sock_recv(far, 64 << 10)
            way._look()
            assert not sending.done()
        way._began = way._at
        way._look()
        with pytest.raises(TimeoutError):
            await sending


async def test_whoever_goes_is_told_of(pump: Pump, file: int) -> None:
    with pair() as (near, far), Way(pump, near.fileno(), 60.0) as way:
        sending = asyncio.ensure_future(way.send(file, 0, len(DATA)))
        await asyncio.get_running_loop().sock_recv(far, 1000)
        far.close()
        with pytest.raises(OSError, match=r"reset|pipe"):
            await sending


async def test_somebody_else_closing_the_socket_changes_nothing_for_others(pump: Pump, file: int) -> None:
    with pair() as (near, far), Way(pump, near.fileno(), 60.0) as way:
        reading = asyncio.ensure_future(received(far, len(DATA)))
        sending = asyncio.ensure_future(way.send(file, 0, len(DATA)))
        await asyncio.sleep(0)
        number = near.fileno()
        near.close()
        with socket.socket() as other:
            assert other.fileno() == number  # the number means another socket now
            assert await sending == len(DATA)
        assert await reading == DATA


async def test_cancelled_while_it_sends(pump: Pump, file: int) -> None:
    with pair() as (near, _), Way(pump, near.fileno(), 60.0) as way:
        sending = asyncio.ensure_future(way.send(file, 0, len(DATA)))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_a_file_that_became_shorter(pump: Pump, tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 10)
    with path.open("rb") as short, pair() as (near, _), Way(pump, near.fileno(), 60.0) as way:
        assert await way.send(short.fileno(), 0, 100) == 10
