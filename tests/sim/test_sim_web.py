"""The machines' HTTP client, and their disks, in front of real servers and against a plain model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from metald.sim.disk import PAGE, Disk, Shelf
from metald.sim.web import Web, WebError, _Chunks

SOURCE = "127.82.0.9"


class Server:
    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        match request.match_info["what"]:
            case "chunks":
                response = web.StreamResponse()
                response.enable_chunked_encoding()
                await response.prepare(request)
                for _ in range(3):
                    await response.write(b"x" * 70_000)
                return response
            case "cut":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"x" * 10)
                request.transport.abort()
                return response
            case "close":
                return web.Response(text="bye", headers={"Connection": "close"})
            case "missing":
                return web.Response(status=404, text="no such file")
        return web.json_response({"method": request.method, "body": await request.text(), "range": request.headers.get("Range")})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{what}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_requests_come_from_the_machines_address_over_one_connection(server: Server) -> None:
    client = Web(SOURCE)
    assert (await client.get(f"{server.url}/echo", headers={"Range": "bytes=5-"})).json()["range"] == "bytes=5-"
    assert (await client.post(f"{server.url}/echo", {"a": 1})).json()["body"] == '{"a": 1}'
    assert {peer[0] for peer in server.peers} == {SOURCE}
    assert len({peer[1] for peer in server.peers}) == 1
    client.close()


async def test_chunks_and_slow_sinks_and_closed_connections(server: Server) -> None:
    client = Web(SOURCE)
    sizes: list[int] = []

    def sink(data: bytes) -> float:
        sizes.append(len(data))
        return 0.001

    answer = await client.get(f"{server.url}/chunks", sink=sink)
    assert (answer.size, sum(sizes), len(answer.body)) == (210_000, 210_000, 0)
    assert bytes((await client.get(f"{server.url}/close")).body) == b"bye"
    assert (await client.get(f"{server.url}/echo")).json()["method"] == "GET"
    client.close()


async def test_errors_say_what_happened(server: Server) -> None:
    client = Web(SOURCE)
    with pytest.raises(WebError, match="no such file") as refused:
        await client.get(f"{server.url}/missing")
    assert refused.value.status == 404
    with pytest.raises(WebError):
        await client.get(f"{server.url}/cut")
    with pytest.raises(WebError, match="cannot connect"):
        await client.get("http://127.0.0.1:1/nothing")
    waiting = asyncio.ensure_future(client.get(f"{server.url}/echo"))
    await asyncio.sleep(0)
    client.close()
    await asyncio.wait([waiting])
    waiting.exception()


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.integers(1, 40))
def test_chunked_bodies_are_read_however_they_are_cut(pieces: list[bytes], step: int) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    chunks, got = _Chunks(), b""
    for at in range(0, len(wire), step):
        got += chunks.feed(wire[at : at + step])
    assert got == b"".join(pieces)
    assert chunks.ended


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5 * PAGE), st.binary(max_size=2 * PAGE)),
        max_size=12,
    )
)
def test_a_disk_holds_what_was_written(writes: list[tuple[bool, int, bytes]]) -> None:
    size = 6 * PAGE + 512
    disk, model, shelf = Disk(size, Shelf()), bytearray(size), Shelf()
    assert shelf.one(b"a") is shelf.one(b"a")
    for zero, offset, data in writes:
        if zero:
            disk.zero(offset, len(data))
            end = min(size, offset + len(data))
            model[offset:end] = bytes(max(0, end - offset))
        elif offset + len(data) <= size:
            disk.write(offset, data)
            model[offset : offset + len(data)] = data
        else:
            with pytest.raises(ValueError, match="ends before"):
                disk.write(offset, data)
    assert disk.read(0, size + 99) == bytes(model)
    assert disk.read(PAGE - 7, 20) == bytes(model[PAGE - 7 : PAGE + 13])
    assert disk.read(size + 5, 3) == b""
