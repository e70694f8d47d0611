"""Frames that are written in one go are those of pamqp, to the byte; and what is confirmed is known whatever order it comes in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from aiormq.exceptions import DeliveryError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader

from metald.amqp.pipeline import Message, Pipeline, frames
from metald.amqp.publisher import properties_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    number=st.integers(1, 65535),
    exchange=st.from_regex(r"[a-zA-Z0-9_.:-]{0,127}", fullmatch=True),
    key=KEYS,
    body=st.binary(max_size=40),
    largest=st.integers(1, 50),
)
def test_a_message(number: int, exchange: str, key: str, body: bytes, largest: int) -> None:
    properties = Basic.Properties(content_type="application/json", message_id=key or "x", delivery_mode=2, app_id="metald")
    expected = marshal(Basic.Publish(exchange=exchange, routing_key=key, mandatory=True), number)
    expected += marshal(ContentHeader(body_size=len(body), properties=properties), number)
    expected += b"".join(marshal(ContentBody(body[at : at + largest]), number) for at in range(0, len(body), largest))
    assert b"".join(frames(number, largest, Message(exchange, key, body, properties.marshal()))) == expected


@given(text=st.text("abcdefghij-0123456789", min_size=1, max_size=40), stamp=st.integers(0, 2**32), kind=st.text("node.", min_size=1))
def test_the_properties_of_an_event(text: str, stamp: int, kind: str) -> None:
    properties = Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=text,
        timestamp=datetime.fromtimestamp(stamp, UTC),
        message_type=kind,
        app_id="metald",
    )
    assert properties_of("application/json", text, stamp + 0.25, kind) == properties.marshal()


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        frames(1, 100, Message("metald.events", "x" * 256, b"", b""))


class Wire:
    """What a pipeline uses of aiormq's channel."""

    def __init__(self) -> None:
        self.number = 1
        self.max_content_size = 4
        self.write_queue: asyncio.Queue[Any] = asyncio.Queue()


def piped(count: int) -> tuple[Any, Pipeline, list[int]]:
    """A pipeline with messages at the places 10, 10, 20, 20, ..., and what it told of."""
    wire, told = Wire(), list[int]()
    channel: Any = wire
    pipeline = Pipeline(channel, told.append, lambda: told.append(-1))
    for number in range(count):
        pipeline.publish(10 * (number // 2 + 1), Message("exchange", "key", b"body of it", bytes(2)))
    return channel, pipeline, told


@given(data=st.data(), count=st.integers(1, 40))
async def test_the_oldest_is_right_whatever_order_the_broker_confirms_in(data: st.DataObject, count: int) -> None:
    channel, pipeline, told = piped(count)
    left = set(range(1, count + 1))
    while left:
        tag = data.draw(st.sampled_from(sorted(left)))
        multiple = data.draw(st.booleans())
        left -= {other for other in left if other <= tag} if multiple else {tag}
        await channel._on_confirm_frame(Basic.Ack(delivery_tag=tag, multiple=multiple))
        first = min(left, default=None)
        assert pipeline.oldest == (None if first is None else 10 * ((first - 1) // 2 + 1))
        assert len(pipeline) == (0 if first is None else count - first + 1)
    assert sum(told) == count


async def test_a_message_that_the_broker_refuses_ends_it() -> None:
    channel, pipeline, told = piped(2)
    for _ in range(2):
        await channel._on_confirm_frame(Basic.Nack(delivery_tag=1))
    with pytest.raises(DeliveryError):
        await pipeline.refused
    assert (told, len(pipeline)) == ([], 2)


async def test_what_comes_back_is_told_and_a_closed_pipeline_tells_nothing() -> None:
    channel, pipeline, told = piped(2)
    assert channel.confirmations.pop(channel.message_id_delivery_tag.get("any"), None) is None
    assert told == [-1]
    pipeline.close()
    await channel._on_confirm_frame(Basic.Ack(delivery_tag=2, multiple=True))
    assert told == [-1]


async def test_messages_leave_together_and_long_bodies_in_pieces() -> None:
    channel, pipeline, _ = piped(3)
    assert channel.write_queue.empty()
    await pipeline.flush()
    await pipeline.flush()
    written = channel.write_queue.get_nowait().payload
    assert channel.write_queue.empty()
    kinds = []
    while written:
        size, _, frame = unmarshal(written)
        written = written[size:]
        kinds.append(type(frame).__name__)
    assert kinds == 3 * ["Publish", "ContentHeader", "ContentBody", "ContentBody", "ContentBody"]
