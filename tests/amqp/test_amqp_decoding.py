"""Reading properties: whatever they hold, they are read, and what is kept of them can be sent again."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode, encode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from metald.amqp.commands.message import Incoming, read
from metald.amqp.decoding import SUBSTITUTE, UNREADABLE, be_lenient, writable
from metald.errors import Invalid
from tests.support.odd_properties import RawHeaders, RawMode, RawText, RawTime, nested

SHORT = st.binary(max_size=255).map(lambda raw: bytes([len(raw)]) + raw)
NUMBERS = st.sampled_from(list(zip(b"tbBsuIilLfdDT", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8), strict=True)))
PLAIN = NUMBERS.flatmap(lambda kind: st.binary(min_size=kind[1], max_size=kind[1]).map(lambda raw: bytes([kind[0]]) + raw))
LONG = st.tuples(st.sampled_from([b"S", b"x"]), st.binary(max_size=40)).map(lambda two: two[0] + _long(two[1]))
ODD = st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=8)).map(b"".join)


def _long(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _tables(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.tuples(SHORT, values).map(b"".join), max_size=5).map(b"".join)


def _deeper(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    arrays = st.lists(inner, max_size=4).map(lambda found: b"A" + _long(b"".join(found)))
    return arrays | _tables(inner).map(lambda raw: b"F" + _long(raw))


VALUES = st.recursive(PLAIN | LONG | st.just(b"V") | ODD, _deeper, max_leaves=12)
TABLES = _tables(VALUES) | st.binary(max_size=60)


@pytest.fixture(autouse=True, scope="module")
def _lenient() -> Iterator[None]:
    """As with every link; and as it was, for who comes after."""
    methods, table = dict(decode.METHODS), dict(decode.TABLE_MAPPING)
    be_lenient()
    yield
    decode.METHODS.update(methods)
    decode.TABLE_MAPPING.update(table)


def _received(properties: Basic.Properties) -> Basic.Properties:
    """What pamqp makes of the properties that were sent."""
    header = ContentHeader()
    header.unmarshal(ContentHeader(properties=properties).marshal())
    return header.properties


@given(raw=st.binary(max_size=255))
def test_a_short_text_is_read_and_never_gets_longer(raw: bytes) -> None:
    got = _received(Basic.Properties(message_id=RawText(raw or b"x"), app_id="after it")).message_id
    assert len(got.encode()) <= max(1, len(raw))
    try:
        assert got == (raw or b"x").decode()
    except UnicodeDecodeError:
        assert SUBSTITUTE in got


@given(number=st.integers(0, 2**64 - 1))
def test_a_time_is_read_or_is_none(number: int) -> None:
    got = _received(Basic.Properties(timestamp=RawTime.of(number), app_id="after it"))
    assert got.app_id == "after it"
    assert got.timestamp is None or (got.timestamp.tzinfo is UTC and isinstance(got.timestamp, datetime))


@given(table=TABLES)
def test_headers_are_read_or_are_one_that_says_why_not_and_can_be_sent_again(table: bytes) -> None:
    got = _received(RawHeaders(table)).headers
    assert set(got) == {UNREADABLE} or UNREADABLE not in got
    kept = writable(got, 1000)
    again = encode.field_table(kept)
    assert len(again) <= 1000 + 4 * len(kept)
    assert set(_received(Basic.Properties(headers=kept)).headers or {}) == set(kept)


@given(raw=st.binary(max_size=200), flags=st.integers(0, 0xFFFF))
def test_properties_that_are_cut_off_end_in_an_error_that_the_connection_knows(raw: bytes, flags: int) -> None:
    """The broker checks what it passes on, so they come from nowhere; but nothing may go on for ever, or end in another way."""
    with contextlib.suppress(ValueError, LookupError, struct.error):
        ContentHeader().unmarshal(struct.pack(">HHQH", 60, 0, 0, flags) + raw)


@pytest.mark.parametrize("depth", [10, 20_000])
def test_headers_in_headers_are_read_as_deep_as_can_be(depth: int) -> None:
    got = _received(RawHeaders(nested(depth))).headers
    assert (UNREADABLE in got) == (depth > 1000)


def test_a_time_among_headers_that_is_none_is_a_number_and_no_time_to_wait_for() -> None:
    got = _received(Basic.Properties(headers={"notbefore": RawTime.of(1.7e15), "other": 1})).headers
    assert got == {"notbefore": 1_700_000_000_000_000, "other": 1}
    message = Incoming(
        body=b"{}", routing_key="node.deploy", content_type=None, headers=got, message_id="1", correlation_id=None, reply_to=None,
        expiration=None, timestamp=None,
    )  # fmt: skip
    with pytest.raises(Invalid, match="notbefore is no time"):
        read(message, sender="", urgent_prefix="urgent.")


@pytest.mark.parametrize(("sent", "read"), [(0, None), (1, 1), (2, 2), (3, None), (255, None)])
def test_a_delivery_mode_that_there_is_not_is_none(sent: int, read: int | None) -> None:
    """RabbitMQ 3 refuses it, later ones pass it on; a library that raises on it would never see the message."""
    assert _received(RawMode(sent)).delivery_mode == read


def test_what_cannot_be_sent_again_is_left_out() -> None:
    headers: dict[str, Any] = {"raw": b"\xff", "huge": 1e300, "deep": [b"\xff"], "long": "x" * 100, "fits": "y"}
    assert writable(headers, 60) == {"raw": "\N{REPLACEMENT CHARACTER}", "fits": "y"}
