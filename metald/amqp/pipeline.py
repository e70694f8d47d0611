"""Pipeline: many messages on their way to the broker at once, in order, each with the broker's answer to come.

aiormq's own `basic_publish` costs a task, a lock and a timer for each message, and pamqp writes frames field by field. Here
frames are written in one go, those of many messages become one write, and the channel's table of confirmations gets a bare
future for each. The attributes of aiormq's Channel that this rests on (`delivery_tag`, `confirmations`,
`message_id_delivery_tag`, `write_queue`, `max_content_size`) are held by every test that publishes.

Source: AMQP 0-9-1, 4.2.3 (frames) and 4.2.6 (content).
"""

from __future__ import annotations

import asyncio
import struct
from functools import partial
from typing import Any

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp.commands import Basic

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH, _MANDATORY = 60, 40, b"\x01"


def published(number: int, exchange: str, key: str) -> bytes:
    """The frame of a mandatory Basic.Publish on channel `number`: in one go what pamqp takes field by field.

    Raises:
        ValueError: a name is longer than 255 bytes.
    """
    names = (exchange.encode(), key.encode())
    fields = b"".join(bytes((len(name),)) + name for name in names)
    return _frame(_METHOD, number, struct.pack(">HHH", _BASIC, _PUBLISH, 0) + fields + _MANDATORY)


def header(number: int, size: int, properties: bytes) -> bytes:
    """The frame of the header of a body of so many bytes, on channel `number`."""
    return _frame(_HEADER, number, struct.pack(">HHQ", _BASIC, 0, size) + properties)


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, number, len(payload)) + payload + _END


class Pipeline:
    """Publishes on one channel that has confirms on. Close it: what was not answered is given up.

    Args:
        channel: the channel; nobody else publishes on it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._waiting: set[asyncio.Future[Any]] = set()

    def publish(self, exchange: str, key: str, body: bytes, properties: Basic.Properties) -> asyncio.Future[Any]:
        """Put a message after those before it; it goes with the next `flush`. `message_id` must be its own.

        Returns:
            What becomes of it: Basic.Ack, or the message itself when it came back unroutable; or the broker's error.
        """
        channel = self._channel
        number = channel.number
        frames = [published(number, exchange, key), header(number, len(body), properties.marshal())]
        size = channel.max_content_size
        frames += [_frame(_BODY, number, body[at : at + size]) for at in range(0, len(body), size)]
        # nothing can fail from here on: the broker counts messages, and the tags follow its count
        self._frames += frames
        channel.delivery_tag += 1
        answer: asyncio.Future[Any] = self._loop.create_future()
        channel.confirmations[channel.delivery_tag] = answer
        channel.message_id_delivery_tag[str(properties.message_id)] = channel.delivery_tag
        self._waiting.add(answer)
        answer.add_done_callback(partial(self._answered, str(properties.message_id)))
        return answer

    async def flush(self) -> None:
        """Hand what was put to the connection."""
        if self._frames:
            frames, self._frames = self._frames, []
            await self._channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))

    def _answered(self, message_id: str, answer: asyncio.Future[Any]) -> None:
        self._waiting.discard(answer)
        self._channel.message_id_delivery_tag.pop(message_id, None)
        if not answer.cancelled():
            # the first error ends the session; those of the messages after it say nothing new
            answer.exception()

    def close(self) -> None:
        """Give up what was not answered."""
        for answer in list(self._waiting):
            answer.cancel()
