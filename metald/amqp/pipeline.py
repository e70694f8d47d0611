"""Pipeline: many messages on their way to the broker at once, in order, and how many of them it has confirmed.

aiormq's own `basic_publish` costs a task, a lock, a future and a timer for each message, its confirmations look through all that is on
its way, and pamqp writes frames field by field. Here frames are written in one go, those of many messages become one write, and a
confirmation takes what it covers from the front of a queue. The methods and attributes of aiormq's Channel that this rests on
(`_on_confirm_frame`, `message_id_delivery_tag`, `confirmations`, `write_queue`, `max_content_size`) are held by every test that
publishes.

Source: AMQP 0-9-1, 4.2.3 (frames) and 4.2.6 (content); RabbitMQ's publisher confirms.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_MANDATORY = b"\x01"
_START = struct.Struct(">BHI")
_HEADER_START = struct.Struct(">BHIHHQ")
_PROPERTIES_AT = 12
"""Bytes of a header's payload before its properties."""


def frames(number: int, largest: int, message: Message) -> list[bytes]:
    """The frames of a mandatory Basic.Publish on channel `number`, in pieces: in one go what pamqp takes field by field.

    Args:
        largest: bytes of a body that one frame takes.

    Raises:
        ValueError: a name is longer than 255 bytes.
    """
    body, properties = message.body, message.properties
    to, name, size = _to(message.exchange), message.key.encode(), len(body)
    found = [
        _START.pack(_METHOD, number, len(to) + 1 + len(name) + len(_MANDATORY)),
        to,
        bytes((len(name),)),
        name,
        _MANDATORY + _END,
        _HEADER_START.pack(_HEADER, number, _PROPERTIES_AT + len(properties), _BASIC, 0, size),
        properties,
        _END,
    ]
    for at in range(0, size, largest):
        piece = body[at : at + largest]  # of a body that fits, the body itself
        found += (_START.pack(_BODY, number, len(piece)), piece, _END)
    return found


@lru_cache(maxsize=16)
def _to(exchange: str) -> bytes:
    name = exchange.encode()
    return struct.pack(">HHH", _BASIC, _PUBLISH, 0) + bytes((len(name),)) + name


class Message(msgspec.Struct, frozen=True, gc=False):
    """What is published."""

    exchange: str
    key: str
    body: bytes
    properties: bytes
    """As AMQP writes them (4.2.6.1)."""


class Pipeline:
    """Publishes on one channel that has confirms on, and does not raise on what comes back.

    Args:
        channel: the channel; nobody else publishes on it.
        confirmed: is told after each confirmation of the broker's how many messages it has confirmed more.
        returned: is told of each message that comes back because no queue wanted it; the broker confirms it too.
    """

    def __init__(self, channel: Channel, confirmed: Callable[[int], None], returned: Callable[[], None]) -> None:
        self._channel = channel
        self._told = confirmed
        self._frames: list[bytes] = []
        self._sent: deque[tuple[int, int]] = deque()  # number of the message on this channel, and its place
        self._count = 0
        self._early: set[int] = set()
        self.refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails when the broker does not take a message."""
        private: Any = channel
        private._on_confirm_frame = self._confirm
        private.message_id_delivery_tag = _Anything()
        private.confirmations = _Returns(returned)

    def __len__(self) -> int:
        """How many are on their way."""
        return len(self._sent)

    @property
    def oldest(self) -> int | None:
        """The place of the oldest message that is not confirmed; None when there is none."""
        return self._sent[0][1] if self._sent else None

    def publish(self, place: int, message: Message) -> None:
        """Put a message after those before it; it goes with the next `flush`.

        Args:
            place: what `oldest` calls it; several messages may have one.
        """
        pieces = frames(self._channel.number, self._channel.max_content_size, message)
        # nothing can fail from here on: the broker counts messages, and our numbers follow its count
        self._frames += pieces
        self._count += 1
        self._sent.append((self._count, place))

    async def flush(self) -> None:
        """Hand what was put to the connection."""
        if self._frames:
            frames, self._frames = self._frames, []
            await self._channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))

    async def _confirm(self, frame: Basic.Ack | Basic.Nack) -> None:
        if not isinstance(frame, Basic.Ack):
            if not self.refused.done():
                self.refused.set_exception(DeliveryError(None, frame))
            return
        sent, early, tag = self._sent, self._early, frame.delivery_tag or 0
        before = len(sent)
        if frame.multiple:
            while sent and sent[0][0] <= tag:
                early.discard(sent.popleft()[0])
        else:
            early.add(tag)
        while sent and sent[0][0] in early:
            early.discard(sent.popleft()[0])
        self._told(before - len(sent))

    def close(self) -> None:
        """Take no more confirmations."""
        self._told = _nobody
        self.refused.cancel()


def _nobody(_count: int) -> None:
    """Whoever closed it wants to hear no more."""


class _Anything:
    """In place of aiormq's table of the messages on their way: whatever comes back is ours."""

    def get(self, _message_id: str) -> int:
        return 0


class _Returns(Mapping[int, Any]):
    """In place of aiormq's table of their futures: counts what comes back, and has nothing."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def pop(self, _tag: int, _default: object = None) -> None:
        self._count()

    def __getitem__(self, tag: int) -> Any:
        raise KeyError(tag)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0
