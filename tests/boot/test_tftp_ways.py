"""The TFTP server behind address translation, in front of small switches, and under clients that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.boot.tftp import packet, transfer, wire
from metald.boot.tftp.pace import Pace
from metald.boot.tftp.packet import Request
from metald.sim.tftp import fetch
from tests.support.tftp_site import Site


@pytest.mark.parametrize("options", [{"blksize": 1468, "windowsize": 16}, {}, {"blksize": 1428, "tsize": 0, "windowsize": 4}])
async def test_everything_from_one_port(tmp_path: Path, options: dict[str, int]) -> None:
    """Behind address translation the answers come from the port that was asked, and from no other."""
    site = Site(tmp_path, tftp_listen="127.0.0.1:0,[::1]:0", tftp_single_port=True)
    await site.server.start()
    try:
        for address in site.server.addresses:
            many = await asyncio.gather(*(fetch(address, "big.efi", **options) for _ in range(5)))
            for client in many:
                assert bytes(client.data) == site.big
                assert client.server is not None
                assert client.server[:2] == address
        await site.idle()
        assert {facts["retransmits"] for _, _, facts in site.fleet.events} == {0}
        await fetch(site.server.addresses[0], "none.efi")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for strange in (b"\0\4\0\1", b"\0\5\0\0", b"\0\3\0\1"):
                sock.sendto(strange, site.server.addresses[0])
        assert (await fetch(site.server.addresses[0], "undionly.kpxe")).done
    finally:
        await site.server.close()


async def test_one_port_without_segmentation_offload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, tftp_single_port=True)
    await site.server.start()
    sends = wire.Listener.send

    def refuse(self: wire.Listener, data: bytes, ancillary: list[wire.Ancillary], peer: wire.Address) -> None:
        if len(ancillary) > 1:
            raise OSError(5, "Input/output error")
        sends(self, data, ancillary, peer)

    monkeypatch.setattr(wire.Listener, "send", refuse)
    try:
        client = await fetch(site.address, "big.efi", blksize=1468, windowsize=16)
        assert bytes(client.data) == site.big
    finally:
        await site.server.close()


@pytest.mark.parametrize("limit", ["tftp_bandwidth", "tftp_bandwidth_per_client"])
async def test_pacing(tmp_path: Path, limit: str) -> None:
    """A window leaves in pieces, none is sent twice for it, and the rate is kept."""
    site = Site(tmp_path, **{limit: 2 << 20})
    await site.server.start()
    loop = asyncio.get_running_loop()
    try:
        begun = loop.time()
        many = await asyncio.gather(*(fetch(site.address, "big.efi", blksize=1468, windowsize=64) for _ in range(2)))
        took = loop.time() - begun
        assert all(bytes(client.data) == site.big for client in many)
        assert took > 0.9 * 2 * len(site.big) / (2 << 20)
        await site.idle()
        assert {facts["retransmits"] for _, _, facts in site.fleet.events} == {0}
    finally:
        await site.server.close()


def test_pace() -> None:
    free = Pace(0, 0)
    assert (free.limited, free.take("a", 1000, 5.0)) == (False, 5.0)
    pace = Pace(1000, 100)
    assert pace.limited
    assert pace.piece(1472) == 1472
    assert Pace(0, 1 << 20).piece(1000) == 10_000
    assert pace.take("a", 100, 10.0) == 10.0
    assert pace.take("a", 100, 10.0) == pytest.approx(10.98)
    assert pace.take("b", 100, 10.0) == pytest.approx(10.18)
    pace.forget("a")
    assert pace.take("a", 100, 10.0) < 10.5


async def test_ten_thousand_that_ask_and_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is left, and a client that stays is served meanwhile."""
    for name, value in {"_FIRST_TIMEOUT": 0.2, "_MOST_TIMEOUT": 0.2}.items():
        monkeypatch.setattr(transfer, name, value)
    site = Site(tmp_path, tftp_transfers=500, tftp_transfers_per_client=500)
    await site.server.start()
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(200)]
            for turn in range(50):
                # From the same ports again: one that starts over with another file.
                request = packet.encode(Request("big.efi" if turn % 2 else "undionly.kpxe", "octet", {"windowsize": "64"}))
                for sock in socks:
                    sock.sendto(request, site.address)
                await asyncio.sleep(0)
            assert (await fetch(site.address, "undionly.kpxe")).done
            await site.idle()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert not site.server._per_client
    finally:
        await site.server.close()


WORDS = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.dictionaries(WORDS, WORDS, max_size=40))
def test_a_flood_of_options(options: dict[str, str]) -> None:
    words = b"".join(word.encode() + b"\0" for pair in options.items() for word in pair)
    try:
        asked = packet.parse(b"\0\1f\0octet\0" + words)
    except packet.Malformed:
        return
    assert isinstance(asked, Request)
    assert len(asked.options) <= packet.MAX_OPTIONS
    agreed = transfer.negotiate(asked.options, 1000, max_blksize=1468, max_window=64)
    assert agreed.blksize <= 1468
    assert 1 <= agreed.windowsize <= 64


async def test_a_request_that_comes_late_does_not_end_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server reads a repetition after the first answer was acknowledged; much later it would be a new start."""
    site = Site(tmp_path)
    await site.server.start()
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            request = packet.encode(Request("big.efi"))
            sock.sendto(request, site.address)
            _, peer = await loop.sock_recvfrom(sock, 2048)
            for block in (1, 2):
                sock.sendto(packet.encode(packet.Ack(block)), peer)
                data, same = await loop.sock_recvfrom(sock, 2048)
                assert (packet.parse(data), same) == (packet.Data(block + 1, data[4:]), peer)
                sock.sendto(request, site.address)
            monkeypatch.setattr("metald.boot.tftp.session._LIVELY", 0.0)
            sock.sendto(request, site.address)
            data, other = await loop.sock_recvfrom(sock, 2048)
            assert other != peer
            sock.sendto(packet.encode(packet.Error(0)), other)
            await site.idle()
    finally:
        await site.server.close()
