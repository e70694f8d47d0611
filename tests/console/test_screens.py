"""The screen of a pretended machine: RFB in memory, over its TCP port, and over the WebSocket that its page opens."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio

from metald import app, configfile
from metald.config import Settings
from metald.console.rfb import NotRfb, PixelFormat, Screen
from tests.support.daemon import free_port

_HEADERS = {"X-OpenStack-Ironic-API-Version": "1.115"}
_ASK = struct.pack(">BBHHHH", 3, 0, 0, 0, 4, 2)
_COLOUR = (1, 2, 3)


def begun(version: bytes = b"RFB 003.008\n") -> Screen:
    """A session that has come to the point where messages are sent."""
    screen = Screen("n1", (4, 2), _COLOUR)
    screen.receive(version)
    if version != b"RFB 003.003\n":
        screen.receive(b"\x01")
    screen.receive(b"\x01")
    return screen


@pytest.mark.parametrize(
    ("version", "offer", "chosen", "verdict"),
    [
        (b"RFB 003.008\n", b"\x01\x01", b"\x01", b"\0\0\0\0"),
        (b"RFB 003.007\n", b"\x01\x01", b"\x01", b""),
        (b"RFB 003.003\n", b"\0\0\0\x01", b"", b""),
    ],
)
def test_a_session_begins(version: bytes, offer: bytes, chosen: bytes, verdict: bytes) -> None:
    screen = Screen("a name", (640, 400))
    assert screen.greeting() == b"RFB 003.008\n"
    assert screen.receive(version[:5]) == b""
    assert screen.receive(version[5:]) == offer
    assert screen.receive(chosen) == verdict
    told = screen.receive(b"\x01")
    assert struct.unpack(">HH", told[:4]) == (640, 400)
    assert told[24:] == b"a name"
    assert struct.unpack(">I", told[20:24]) == (6,)


def test_a_screen_is_drawn_in_the_clients_pixels() -> None:
    screen = begun()
    head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 2, 0)
    assert screen.receive(_ASK) == head + bytes((3, 2, 1, 0)) * 8
    big = PixelFormat(16, 16, big_endian=True, most=(31, 63, 31), shifts=(11, 5, 0))
    screen.receive(b"\0\0\0\0" + big.write())
    assert screen.receive(_ASK)[16:] == big.pixel(_COLOUR) * 8
    screen.receive(b"\0\0\0\0" + PixelFormat(8, 8, true_colour=False).write())
    assert screen.receive(_ASK)[16:] == b"\0" * 8


def test_a_client_that_knows_more_gets_less() -> None:
    screen = begun()
    screen.receive(struct.pack(">BxHii", 2, 2, 0, 2))
    assert screen.receive(_ASK) == struct.pack(">BxHHHHHiI", 0, 1, 0, 0, 4, 2, 2, 0) + bytes((3, 2, 1, 0))


def test_what_changes_nothing_is_not_answered() -> None:
    screen = begun()
    incremental = struct.pack(">BBHHHH", 3, 1, 0, 0, 4, 2)
    keys, pointer = struct.pack(">BBxxI", 4, 1, 65), struct.pack(">BBHH", 5, 0, 1, 1)
    clipboard = struct.pack(">BxxxI", 6, 3) + b"abc"
    everything = incremental + keys + pointer + clipboard
    assert screen.receive(everything) == b""
    for number in range(len(everything)):
        assert screen.receive(everything[number : number + 1]) == b""
    assert screen.receive(_ASK) != b""


def test_a_part_beyond_the_edge_is_cut_off() -> None:
    answer = begun().receive(struct.pack(">BBHHHH", 3, 0, 3, 1, 65535, 65535))
    assert struct.unpack(">HHHH", answer[4:12]) == (3, 1, 1, 1)
    assert len(begun().receive(struct.pack(">BBHHHH", 3, 0, 9, 9, 9, 9))) == 16


@pytest.mark.parametrize(
    ("before", "data"),
    [
        ("nothing", b"GET / HTTP/1.1\r\n"),
        ("version", b"\x02"),
        ("begun", b"\x09"),
        ("begun", b"\0\0\0\0" + PixelFormat(24).write()),
        ("begun", struct.pack(">BxxxI", 6, 1 << 30)),
    ],
)
def test_what_is_no_rfb_ends_the_session(before: str, data: bytes) -> None:
    screen = begun() if before == "begun" else Screen("n1")
    if before == "version":
        screen.receive(b"RFB 003.008\n")
    with pytest.raises(NotRfb):
        screen.receive(data)


class Site:
    """A daemon with a pretended machine."""

    def __init__(self, http: aiohttp.ClientSession, url: str, uuid: str) -> None:
        self.http, self.url, self.uuid = http, url, uuid

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with self.http.request(method, self.url + path, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json() if answer.content_length else None

    async def enable(self, enabled: bool = True) -> Any:
        await self.call("PUT", f"/v1/nodes/{self.uuid}/states/console", {"enabled": enabled})
        async with asyncio.timeout(60):
            while (found := await self.call("GET", f"/v1/nodes/{self.uuid}/states/console"))["console_enabled"] is not enabled:
                await asyncio.sleep(0.02)
        return found["console_info"]

    async def told(self) -> Any:
        return (await self.call("GET", f"/v1/nodes/{self.uuid}"))["driver_internal_info"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    listening = [f"METALD__{part}=127.0.0.1:{free_port()}" for part in ("API__LISTEN", "BOOT__HTTP_LISTEN")]
    values = dict(line.split("=") for line in listening) | {"METALD__DRIVERS__ENABLED_HARDWARE_TYPES": "fake-hardware"}
    return configfile.load(None, {**values, "METALD__STATE_DIR": str(tmp_path)})


@pytest_asyncio.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    async with app.running(settings) as daemon, aiohttp.ClientSession(headers=_HEADERS) as http:
        found = Site(http, daemon.url, "")
        node = await found.call("POST", "/v1/nodes", {"driver": "fake-hardware", "console_interface": "fake-graphical", "name": "n1"})
        found.uuid = node["uuid"]
        yield found


async def test_a_page_leads_to_the_screen(site: Site) -> None:
    info = await site.enable()
    assert info["type"] == "vnc"
    assert site.uuid in info["url"]
    told = await site.told()
    assert told["vnc_host"] == "127.0.0.1"
    async with site.http.get(info["url"]) as page:
        text = await page.text()
        assert page.status == 200
        assert "<script" in text
    path = parse_qs(urlsplit(info["url"]).query)["path"][0]
    async with site.http.ws_connect(f"{site.url}/{path}", protocols=("binary",)) as socket:
        assert socket.protocol == "binary"
        assert await socket.receive_bytes() == b"RFB 003.008\n"
        await socket.send_bytes(b"RFB 003.008\n")
        assert await socket.receive_bytes() == b"\x01\x01"
        await socket.send_bytes(b"\x01")
        assert await socket.receive_bytes() == b"\0\0\0\0"
        await socket.send_bytes(b"\x01")
        assert (await socket.receive_bytes())[24:] == b"n1"
        await socket.send_bytes(b"\xff")
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_a_screen_that_is_closed_is_gone(site: Site) -> None:
    info = await site.enable()
    port = (await site.told())["vnc_port"]
    assert await site.enable(False) is None
    assert not {"vnc_host", "vnc_port"} & (await site.told()).keys()
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection("127.0.0.1", port)
    path = parse_qs(urlsplit(info["url"]).query)["path"][0]
    async with site.http.get(f"{site.url}/{path}") as answer:
        assert answer.status == 404


async def test_nobody_gets_in_without_a_token(site: Site) -> None:
    await site.enable()
    for query in ("", "?token=1.a", "?token=99999999999.a"):
        async with site.http.get(f"{site.url}/v1/screen/{site.uuid}{query}") as answer:
            assert answer.status == 403
    info = await site.enable()
    path = parse_qs(urlsplit(info["url"]).query)["path"][0]
    async with site.http.get(f"{site.url}/{path}") as answer:
        assert answer.status == 426


async def test_a_screen_is_there_again_after_a_restart(settings: Settings) -> None:
    async with app.running(settings) as daemon, aiohttp.ClientSession(headers=_HEADERS) as http:
        site = Site(http, daemon.url, "")
        site.uuid = (await site.call("POST", "/v1/nodes", {"driver": "fake-hardware", "console_interface": "fake-graphical"}))["uuid"]
        await site.enable()
        port = (await site.told())["vnc_port"]
    async with app.running(settings) as daemon, aiohttp.ClientSession(headers=_HEADERS) as http:
        site = Site(http, daemon.url, site.uuid)
        async with asyncio.timeout(60):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    break
        assert await reader.readexactly(12) == b"RFB 003.008\n"
        writer.close()
        await site.call("DELETE", f"/v1/nodes/{site.uuid}")
        assert await reader.read() == b""
