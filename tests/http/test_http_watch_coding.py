"""Packed streams: what clients accept, and that shared blocks are one correct gzip stream to each of them, wherever it joined."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.http.watch.coding import Block, Gzip, accepts_gzip
from metald.http.watch.frames import Chunk, Frame, beat
from metald.model import Event
from tests.http.test_http_watch import STREAM, api_with, tell, watching
from tests.support.api import Api
from tests.support.watching import PATIENCE, EventSource

batches = st.lists(st.one_of(st.binary(max_size=300), st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.integers(0, 20_000))))


@given(batches, st.data())
def test_shared_blocks_are_a_stream_to_whoever_joins_wherever(plain: Sequence[bytes], data: st.DataObject) -> None:
    blocks = [Block(one) for one in plain]
    for joined in {0, data.draw(st.integers(0, len(blocks)))}:
        own = Block(data.draw(st.binary(max_size=50)))
        stream, reader, wanted = Gzip(), zlib.decompressobj(31), b""
        for block in (own, *blocks[joined:]):
            wanted += block.plain
            assert reader.decompress(stream.encode(block)) == block.plain, "what was sent can be read at once"
        assert reader.decompress(stream.end()) == b""
        assert reader.eof, "the end is said, and its check and size are right"


def test_a_stream_of_nothing_has_an_end() -> None:
    assert gzip.decompress(Gzip().end()) == b""


def test_a_block_is_packed_once_and_only_if_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []
    original = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *given: packed.append(given) or original(*given))
    chunk = Chunk([Frame(Event(type="t", data={"x": "y" * 1000}, seq=1))])
    assert b'"x":"yyy' in chunk.sse.plain
    assert not packed
    streams = [Gzip() for _ in range(3)]
    sent = {stream.encode(chunk.sse)[-50:] for stream in streams}
    assert len(sent) == len(packed) == 1
    assert beat(7) is beat(7)


@pytest.mark.parametrize(
    ("header", "packed"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZip, deflate, br", True),
        ("x-gzip", True),
        ("deflate, br", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip ; q=0.5", True),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=0.5, identity;q=0.1", True),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", True),
        ("identity;q=0", False),
        ("gzip;q=x", False),
        ("gzip;level=9", False),
        (",,gzip,,", True),
    ],
)
def test_who_accepts_gzip(header: str | None, packed: bool) -> None:
    assert accepts_gzip(header) is packed


@pytest.mark.parametrize(("accepted", "coding"), [("gzip", "gzip"), ("identity", None), ("deflate", None)])
async def test_the_coding_is_what_the_client_accepts(api: Api, accepted: str, coding: str | None) -> None:
    async with watching(api, Accept_Encoding=accepted) as source:
        assert source.answer.headers.get("Content-Encoding") == coding
        assert source.answer.headers["Vary"] == "Accept-Encoding"
        numbers = await tell(api, 3)
        assert [told.data["seq"] for told in await source.take(3)] == numbers


async def test_no_header_means_plain_bytes(api: Api) -> None:
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(f"GET {STREAM} HTTP/1.1\r\nHost: {api.client.host}\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"retry: 2000\n\n")
    assert b"Content-Encoding" not in head
    writer.close()


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
async def test_a_client_of_http_1_0_gets_a_stream_without_chunks(api: Api, accepted: str) -> None:
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(f"GET {STREAM} HTTP/1.0\r\nHost: {api.client.host}\r\nAccept-Encoding: {accepted}\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        numbers, unpack, text = await tell(api, 3), zlib.decompressobj(31), b""
        while f"id: {numbers[-1]}\n".encode() not in text:
            piece = await reader.read(1 << 16)
            assert piece
            text += unpack.decompress(piece) if accepted == "gzip" else piece
    assert text.startswith(b"retry: 2000\n\n: heartbeat")
    writer.close()


async def _unpacked(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What the stream says, unpacked here, up to its end, which has to be a proper one."""
    reader = zlib.decompressobj(31)
    async for piece in answer.content.iter_any():
        yield reader.decompress(piece)
    assert reader.eof
    assert not reader.unused_data


async def test_a_packed_stream_ends_as_gzip_does(tmp_path: Path) -> None:
    async with api_with(tmp_path, heartbeat=0.02) as api, aiohttp.ClientSession(auto_decompress=False) as bare:
        url, headers = f"http://{api.client.host}:{api.client.port}{STREAM}", {"Accept-Encoding": "gzip"}
        await tell(api, 120)
        async with bare.get(f"{url}?since=5", headers=headers) as answer, asyncio.timeout(PATIENCE):
            text = b""
            closing = None
            async for piece in _unpacked(answer):
                text += piece
                if closing is None and b"id: 121\n" in text and text.count(b": heartbeat") > 3:
                    closing = asyncio.create_task(api.client.server.close())
                elif closing is None and b"id: 120\n" in text:
                    await tell(api)
            assert closing is not None
            await closing
    assert b'"code":"stopping"' in text
    numbers = [int(line[4:]) for line in text.splitlines() if line.startswith(b"id: ")]
    assert sorted(set(numbers)) == numbers or set(range(6, 122)) <= set(numbers)


async def test_an_event_source_goes_on_where_a_packed_stream_was_cut(api: Api) -> None:
    numbers = await tell(api, 10)
    async with watching(api, "?since=0", Accept_Encoding="gzip") as source:
        await source.take(4)
    async with watching(api, Accept_Encoding="gzip", Last_Event_ID=source.last_id) as again:
        assert [told.data["seq"] for told in await again.take(6)] == numbers[4:]


async def test_watchers_that_joined_at_different_times_get_the_same(api: Api) -> None:
    async with watching(api, Accept_Encoding="gzip") as first, watching(api, Accept_Encoding="identity") as second:
        early = await tell(api, 5)
        sources: list[EventSource] = [first, second]
        assert all([[told.data["seq"] for told in await source.take(5)] == early for source in sources])
        async with watching(api, Accept_Encoding="gzip") as late:
            numbers = await tell(api, 50)
            for source in (*sources, late):
                assert [told.data["seq"] for told in await source.take(50)] == numbers
