"""Frames that are written in one go are those of pamqp, to the byte."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from metald.amqp.pipeline import header, published
from metald.amqp.publisher import properties_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(number=st.integers(1, 65535), exchange=st.from_regex(r"[a-zA-Z0-9_.:-]{0,127}", fullmatch=True), key=KEYS)
def test_a_publish(number: int, exchange: str, key: str) -> None:
    assert published(number, exchange, key) == marshal(Basic.Publish(exchange=exchange, routing_key=key, mandatory=True), number)


@given(number=st.integers(1, 65535), size=st.integers(0, 2**40), text=KEYS)
def test_a_header(number: int, size: int, text: str) -> None:
    properties = Basic.Properties(content_type="application/json", message_id=text or "x", delivery_mode=2, app_id="metald")
    assert header(number, size, properties.marshal()) == marshal(ContentHeader(body_size=size, properties=properties), number)


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
        published(1, "metald.events", "x" * 256)
