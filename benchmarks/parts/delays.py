"""How long after their transaction the events of a daemon are with a consumer of the broker, seen from outside, and where the time went.

python -m benchmarks.parts.delays URL DATABASE: prints `ready`, and once its input ends, as JSON, the moments of each event.

One process, and one clock, sees three things. When a transaction became visible in the daemon's SQLite database, which is when it is
durable (the index of the WAL is written behind the `fsync`): it asks for the number of the last event every millisecond, so that each
event lies between the last question that did not know of it and the first that did. When the daemon had written it to the broker's
socket: it reads along on the loopback device, which root may do. And when it came: the kernel's time of arrival, and when it was read.

What comes is noted and parsed afterwards: a consumer that parses thousands of events a second meanwhile takes a processor, and
measures itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import select
import socket
import sqlite3
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import orjson
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ProtocolHeader
from yarl import URL

_QUEUE = "delays"
_AT_ONCE = 1 << 20
_HEAD = 7
_PAUSE = 0.001
_IPV4, _TCP = 0x0800, 6
_ATTACH_FILTER, _RCVBUFFORCE, _TIMESTAMPNS = 26, 33, 35
"""socket(7); Python does not name them."""
_TIMESPEC = struct.Struct("qq")


class Moments(NamedTuple):
    """What became of an event, in seconds since 1970."""

    before: float
    """Its transaction was not durable yet."""
    durable: float
    """Its transaction was durable."""
    written: float | None
    """It had left the daemon; None where that could not be seen."""
    came: float
    """It was with the consumer's kernel."""
    read: float
    """The consumer had it."""


class _Stream:
    """Bytes, and when they came."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._times: list[tuple[float, ...]] = []

    def add(self, piece: bytes, *times: float) -> None:
        self._pieces.append(piece)
        self._times.append(times)

    def events(self) -> dict[int, tuple[float, ...]]:
        """The number of each event in it, with the times at which its last byte came."""
        found: dict[int, tuple[float, ...]] = {}
        ends, whole = list(accumulate(map(len, self._pieces))), b"".join(self._pieces)
        at = len(frame.marshal(ProtocolHeader(), 0)) if whole.startswith(b"AMQP") else 0
        while at + _HEAD <= len(whole):
            size = _size(whole[at : at + _HEAD])
            if at + size > len(whole):
                break
            _, _, read = frame.unmarshal(whole[at : at + size])
            at += size
            if isinstance(read, ContentBody):
                # one that came twice counts when it came first
                found.setdefault(int(orjson.loads(read.value)["id"]), self._times[bisect_left(ends, at)])
        return found


def _size(begun: bytes | bytearray) -> int:
    """Of the frame that begins so (AMQP 0-9-1, 4.2.3)."""
    return _HEAD + int.from_bytes(begun[3:_HEAD], "big") + 1 if len(begun) >= _HEAD else _HEAD


def _stamp(ancillary: list[tuple[int, int, bytes]], otherwise: float) -> float:
    """The kernel's time of what was received."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _TIMESTAMPNS:
            found: tuple[int, int] = _TIMESPEC.unpack(data)
            return found[0] + found[1] / 1e9
    return otherwise


class _Consumer:
    """A consumer of AMQP that parses nothing before it has to."""

    def __init__(self, url: URL) -> None:
        self.socket = socket.create_connection((url.host, url.port or 5672))
        self.stream = _Stream()
        self._came = bytearray()
        self.socket.sendall(frame.marshal(ProtocolHeader(), 0))
        self._expect(commands.Connection.Start)
        self._send(commands.Connection.StartOk({}, "PLAIN", f"\0{url.user or 'guest'}\0{url.password or 'guest'}"), 0)
        tune = self._expect(commands.Connection.Tune)
        assert isinstance(tune, commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), 0)
        self._send(commands.Connection.Open(url.path.removeprefix("/") or "/"), 0)
        self._expect(commands.Connection.OpenOk)
        for asked, answered in (
            (commands.Channel.Open(), commands.Channel.OpenOk),
            (commands.Exchange.Declare(exchange="metald.events", exchange_type="topic", durable=True), commands.Exchange.DeclareOk),
            (commands.Queue.Declare(queue=_QUEUE, durable=True), commands.Queue.DeclareOk),
            (commands.Queue.Bind(queue=_QUEUE, exchange="metald.events", routing_key="#"), commands.Queue.BindOk),
            (commands.Basic.Consume(queue=_QUEUE, no_ack=True), commands.Basic.ConsumeOk),
        ):
            self._send(asked, 1)
            self._expect(answered)
        assert not self._came, "nobody has published yet"
        self.socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)

    def _send(self, method: Frame, channel: int) -> None:
        self.socket.sendall(frame.marshal(method, channel))

    def _expect(self, method: type[Frame]) -> Frame:
        while len(self._came) < (size := _size(self._came)):
            self._came += self.socket.recv(_AT_ONCE)
        _, _, found = frame.unmarshal(bytes(self._came[:size]))
        del self._came[:size]
        if not isinstance(found, method):
            raise RuntimeError(f"the broker said {found!r} where {method.__name__} was expected")
        return found

    def take(self) -> None:
        """Take what has come."""
        piece, ancillary, _, _ = self.socket.recvmsg(_AT_ONCE, 64)
        now = time.time()
        self.stream.add(piece, _stamp(ancillary, now), now)


class _Wire:
    """What is sent to the broker's port over the loopback device, by the port that it is sent from.

    Raises:
        PermissionError: only root may read along.
    """

    def __init__(self, port: int) -> None:
        self._packets: dict[int, list[tuple[int, bytes, float]]] = {}
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IPV4))
        code = [
            (0x30, 0, 0, 9),  # the protocol
            (0x15, 0, 4, _TCP),
            (0xB1, 0, 0, 0),  # the length of the IP header
            (0x48, 0, 0, 2),  # the port behind it that it goes to
            (0x15, 0, 1, port),
            (0x06, 0, 0, 0xFFFF),
            (0x06, 0, 0, 0),
        ]
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
        self.socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(code), ctypes.addressof(program)))
        self.socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        self.socket.bind(("lo", _IPV4))
        self.socket.setblocking(False)

    def take(self) -> None:
        """Take what has been sent."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, ancillary, _, _ = self.socket.recvmsg(1 << 16, 64)
                begin = 4 * (packet[0] & 15)
                data = packet[begin + 4 * (packet[begin + 12] >> 4) : int.from_bytes(packet[2:4], "big")]
                if data:
                    origin, place = int.from_bytes(packet[begin : begin + 2], "big"), int.from_bytes(packet[begin + 4 : begin + 8], "big")
                    self._packets.setdefault(origin, []).append((place, data, _stamp(ancillary, time.time())))

    def events(self) -> dict[int, tuple[float, ...]]:
        """When each event was first sent."""
        found: dict[int, tuple[float, ...]] = {}
        for packets in self._packets.values():
            for number, times in _in_order(packets).events().items():
                found[number] = min(times, found.get(number, times))
        return found


def _in_order(packets: list[tuple[int, bytes, float]]) -> _Stream:
    """The bytes of packets as they were sent first: TCP sends some again when it hears nothing. Up to a packet that was not seen."""
    found, first, end = _Stream(), packets[0][0], 0
    for place, time_, data in sorted(((place - first) & 0xFFFFFFFF, time_, data) for place, data, time_ in packets):
        if place > end:
            break
        if fresh := data[end - place :]:
            found.add(fresh, time_)
            end += len(fresh)
    return found


class _Commits:
    """When transactions with events became durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._asked = time.time()
        self._last = 0
        self._steps: list[tuple[int, float, float]] = []

    def look(self) -> None:
        """Ask once, if there is a database yet."""
        asked = time.time()
        if self._database is None and self._path.exists():
            self._database = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        if self._database is not None:
            with contextlib.suppress(sqlite3.OperationalError):  # it has no tables yet
                last = self._database.execute("SELECT events FROM counters").fetchone()[0]
                if last > self._last:
                    self._steps.append((last, self._asked, time.time()))
                    self._last = last
        self._asked = asked

    def of(self, number: int) -> tuple[float, float]:
        """Between which moments an event became durable."""
        _, before, durable = self._steps[bisect_left(self._steps, number, key=lambda step: step[0])]
        return before, durable


def follow(url: URL, database: Path) -> dict[int, Moments]:
    """Follow until the standard input ends."""
    consumer, commits = _Consumer(url), _Commits(database)
    try:
        wire = _Wire(url.port or 5672)
    except PermissionError:
        wire = None
    print("ready", flush=True)
    watched = [consumer.socket, sys.stdin, *([wire.socket] if wire else [])]
    while True:
        ready, _, _ = select.select(watched, [], [], _PAUSE)
        commits.look()
        if consumer.socket in ready:
            consumer.take()
        if wire is not None and wire.socket in ready:
            wire.take()
        if sys.stdin in ready:
            break
    sent = wire.events() if wire is not None else {}
    return {
        number: Moments(*commits.of(number), sent[number][0] if number in sent else None, came, read)
        for number, (came, read) in consumer.stream.events().items()
    }


class Following(NamedTuple):
    """Something that follows."""

    pid: int
    end: Callable[[], Awaitable[dict[int, Moments]]]
    """Ends it, and returns the moments of each event."""


@contextlib.asynccontextmanager
async def delays(url: str, database: Path) -> AsyncIterator[Following]:
    """Follow meanwhile, in a process of its own. Before the daemon has been started."""
    follower = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.delays", url, str(database)),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert follower.stdout is not None
    try:
        if await follower.stdout.readline() != b"ready\n":
            raise RuntimeError("the consumer could not follow")

        async def end() -> dict[int, Moments]:
            output, _ = await follower.communicate(b"\n")
            return {int(number): Moments(*moments) for number, moments in json.loads(output).items()}

        yield Following(follower.pid, end)
    finally:
        if follower.returncode is None:
            follower.kill()
            await follower.wait()


if __name__ == "__main__":
    json.dump(follow(URL(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
