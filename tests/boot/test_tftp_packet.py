"""The TFTP codec: what is written is read, and no bytes break the reader."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.tftp import packet
from metald.boot.tftp.blocks import PREBUILT, Blocks
from metald.boot.tftp.packet import Ack, Data, Error, Malformed, OptionAck, Request

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
OPTIONS = st.dictionaries(WORDS.map(str.lower), WORDS, max_size=packet.MAX_OPTIONS)
BLOCK = st.integers(0, 65535)
PACKETS = st.one_of(
    st.builds(Request, WORDS, st.sampled_from(["octet", "netascii"]), OPTIONS, st.booleans()),
    st.builds(Data, BLOCK, st.binary(max_size=600)),
    st.builds(Ack, BLOCK),
    st.builds(Error, st.integers(0, 8), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100)),
    st.builds(OptionAck, OPTIONS.filter(bool)),
)


@given(PACKETS)
def test_what_is_written_is_read(given_packet: packet.Packet) -> None:
    assert packet.parse(packet.encode(given_packet)) == given_packet


@given(st.one_of(st.binary(max_size=1200), st.builds(lambda op, rest: bytes((0, op)) + rest, st.integers(0, 7), st.binary(max_size=1200))))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        packet.parse(data)


def test_sloppy_requests() -> None:
    assert packet.parse(b"\0\1file\0OcTeT\0" + bytes(40)) == Request("file", "octet")
    assert packet.parse(b"\0\1file\0octet") == Request("file", "octet")
    assert packet.parse(b"\0\1f\0octet\0BLKSIZE\x001468\0blksize\x008\0tsize") == Request("f", "octet", {"blksize": "1468"})
    for wrong in (
        b"\0\1\0octet\0",
        b"\0\1file",
        b"\0\1file\0\0",
        b"\0\1" + b"x" * 2000 + b"\0octet\0",
        b"\0\7abcd",
        b"\1\1ab\0c\0",
        b"\0\1",
    ):
        with pytest.raises(Malformed):
            packet.parse(wrong)


def test_an_option_flood_is_cut() -> None:
    flood = b"".join(b"o%d\x001\0" % number for number in range(100))
    parsed = packet.parse(b"\0\1f\0octet\0" + flood)
    assert isinstance(parsed, Request)
    assert len(parsed.options) == packet.MAX_OPTIONS


@pytest.mark.parametrize("text", [None, "", "-1", "1.5", "0x10", " 1", "१२", "9" * 11])
def test_numbers(text: str | None) -> None:
    assert packet.number(text) is None
    assert packet.number("1468") == 1468


def test_netascii() -> None:
    assert packet.to_netascii(b"a\nb\rc\r\n") == b"a\r\nb\r\0c\r\0\r\n"


def test_messages_are_cut_and_cannot_end_early() -> None:
    data = packet.encode(Error(1, "a\0b" + "x" * 500))
    assert data.startswith(b"\0\5\0\1a?b")
    assert len(data) == 4 + packet.MAX_MESSAGE + 1


@given(st.binary(max_size=3000), st.integers(8, 600), st.data())
def test_blocks_are_the_content(data: bytes, blksize: int, draw: st.DataObject) -> None:
    blocks = Blocks(data, blksize)
    first = draw.draw(st.integers(1, blocks.count))
    last = draw.draw(st.integers(first, blocks.count))
    joined = bytes(blocks.span(first, last))
    datagrams = [joined[at : at + blocks.segment] for at in range(0, len(joined), blocks.segment)]
    assert [packet.parse(one) for one in datagrams] == [
        Data(block & 0xFFFF, data[(block - 1) * blksize : block * blksize]) for block in range(first, last + 1)
    ]


def test_large_contents_are_cut_when_sent() -> None:
    data = bytes(PREBUILT * 1024 + 1)
    blocks = Blocks(data, 1024)
    assert bytes(blocks.span(2, 3)) == packet.header(2) + data[1024:2048] + packet.header(3) + data[2048:3072]
    assert bytes(blocks.span(blocks.count, blocks.count)) == packet.header(blocks.count) + b"\0"
