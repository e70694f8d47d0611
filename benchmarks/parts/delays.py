"""How long after their moment the events of a daemon are with a consumer of the broker, which has a process of its own.

python -m benchmarks.parts.delays URL: prints `ready`, and once its input ends, as JSON, the number of each event with the seconds from the
event's own time (before its transaction) to its arrival.

The consumer notes when bytes came and reads them afterwards: one that reads thousands of events a second meanwhile takes a processor, and
measures itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import orjson
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ProtocolHeader
from yarl import URL

Delays = dict[int, float]
_QUEUE = "delays"
_AT_ONCE = 1 << 20
_HEAD = 7


class _Consumer:
    """A consumer of AMQP that reads nothing before it has to."""

    def __init__(self, url: URL) -> None:
        self._socket = socket.create_connection((url.host, url.port or 5672))
        self._came = bytearray()
        self._socket.sendall(frame.marshal(ProtocolHeader(), 0))
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

    def _send(self, method: Frame, channel: int) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _expect(self, method: type[Frame]) -> Frame:
        while len(self._came) < (size := _size(self._came)):
            self._came += self._socket.recv(_AT_ONCE)
        _, _, found = frame.unmarshal(bytes(self._came[:size]))
        del self._came[:size]
        if not isinstance(found, method):
            raise RuntimeError(f"the broker said {found!r} where {method.__name__} was expected")
        return found

    def take(self) -> Delays:
        """Take what comes until the standard input ends; then read it."""
        pieces, times = [bytes(self._came)], [time.time()]
        while True:
            ready, _, _ = select.select([self._socket, sys.stdin], [], [])
            if self._socket in ready:
                pieces.append(self._socket.recv(_AT_ONCE))
                times.append(time.time())
            elif sys.stdin in ready:
                return _read(pieces, times)


def _size(begun: bytes | bytearray) -> int:
    """Of the frame that begins so (AMQP 0-9-1, 4.2.3)."""
    return _HEAD + int.from_bytes(begun[3:_HEAD], "big") + 1 if len(begun) >= _HEAD else _HEAD


def _read(pieces: list[bytes], times: list[float]) -> Delays:
    """What came, with the time at which its last byte did."""
    found: Delays = {}
    ends, whole, at = list(accumulate(map(len, pieces))), b"".join(pieces), 0
    while at < len(whole):
        size = _size(whole[at : at + _HEAD])
        _, _, read = frame.unmarshal(whole[at : at + size])
        at += size
        if isinstance(read, ContentBody):
            event = orjson.loads(read.value)
            found[int(event["id"])] = times[bisect_left(ends, at)] - datetime.fromisoformat(event["time"]).timestamp()
    return found


@contextlib.asynccontextmanager
async def delays(url: str) -> AsyncIterator[Callable[[], Awaitable[Delays]]]:
    """Follow meanwhile. What is given ends it, and returns the delays."""
    follower = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.parts.delays", url),
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert follower.stdout is not None
    if await follower.stdout.readline() != b"ready\n":
        raise RuntimeError("the consumer could not follow")

    async def end() -> Delays:
        output, _ = await follower.communicate(b"\n")
        return {int(number): seconds for number, seconds in json.loads(output).items()}

    yield end


if __name__ == "__main__":
    consumer = _Consumer(URL(sys.argv[1]))
    print("ready", flush=True)
    json.dump(consumer.take(), sys.stdout)
