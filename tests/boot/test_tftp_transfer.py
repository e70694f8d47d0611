"""Transfers over links in memory that lose, double, delay and reorder: the file arrives whole, or both sides say why not."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.boot.tftp import packet
from metald.boot.tftp.blocks import Blocks
from metald.boot.tftp.packet import Ack, Error
from metald.boot.tftp.transfer import MAX_BURST, Agreed, Burst, Transfer, negotiate
from metald.sim.tftp import Client


@dataclass
class Link:
    """How bad the wire is: shares of datagrams, and seconds."""

    loss: float = 0.0
    double: float = 0.0
    delay: float = 0.001
    jitter: float = 0.0


class Wire:
    """A client and a transfer with two links between them, in simulated time."""

    def __init__(self, data: bytes, there: Link, back: Link, seed: int, **options: int) -> None:
        self.client = Client("f", **options)
        request = packet.parse(self.client.begin(0.0)[0])
        assert isinstance(request, packet.Request)
        agreed = negotiate(request.options, len(data), max_blksize=1468, max_window=64)
        self.server = Transfer(Blocks(data, agreed.blksize), agreed)
        self.links = {"client": there, "server": back}
        self.sent = 0
        self.time = 0.0
        self._random = random.Random(seed)
        self._count = itertools.count()
        self._heap: list[tuple[float, int, str, bytes]] = []

    def _put(self, to: str, datagrams: list[bytes]) -> None:
        link = self.links[to]
        for datagram in datagrams:
            self.sent += to == "client"
            copies = (self._random.random() >= link.loss) + (self._random.random() < link.double)
            for _ in range(copies):
                arrives = self.time + link.delay + self._random.random() * link.jitter
                heapq.heappush(self._heap, (arrives, next(self._count), to, datagram))

    def _burst(self, burst: Burst | None) -> None:
        if burst is not None:
            data, size = bytes(burst), self.server.segment
            self._put("client", [data[at : at + size] for at in range(0, len(data), size)])

    def run(self) -> Wire:
        self._burst(self.server.begin(0.0))
        for _ in range(200_000):
            timers = [] if self.server.ended else [self.server.deadline]
            if not (self.client.done or self.client.error):
                timers.append(self.client.deadline)
            if not self._heap and not timers:
                return self
            if self._heap and self._heap[0][0] <= min(timers, default=1e9):
                self.time, _, to, datagram = heapq.heappop(self._heap)
                if to == "server":
                    self._burst(self.server.receive(datagram, self.time))
                else:
                    self._put("server", self.client.receive(datagram, self.time))
            else:
                self.time = min(timers)
                self._put("server", self.client.expire(self.time))
                self._burst(self.server.expire(self.time))
        raise AssertionError("the transfer never ends")


CONTENT = bytes(range(256)) * 40
OPTIONS = st.fixed_dictionaries(
    {}, optional={"blksize": st.integers(8, 2000), "windowsize": st.integers(1, 70), "timeout": st.integers(1, 5), "tsize": st.just(0)}
)
LINKS = st.builds(Link, st.floats(0, 0.2), st.floats(0, 0.3), st.floats(0.0001, 0.05), st.floats(0, 0.1))


@settings(max_examples=150)
@given(st.integers(0, 3000), OPTIONS, LINKS, LINKS, st.integers(0, 2**32))
def test_the_file_arrives_whole_or_both_give_up(size: int, options: dict[str, int], there: Link, back: Link, seed: int) -> None:
    wire = Wire(CONTENT[:size], there, back, seed, **options).run()
    assert wire.server.ended
    if wire.client.done:
        assert bytes(wire.client.data) == CONTENT[:size]
    else:
        assert wire.client.error
    if not wire.server.error:
        assert wire.client.done
        assert wire.server.bytes_acknowledged == size


@settings(max_examples=60)
@given(OPTIONS.filter(lambda options: options.get("blksize", 512) >= 128), st.integers(0, 2**32))
def test_light_loss_never_fails_a_transfer(options: dict[str, int], seed: int) -> None:
    link = Link(loss=0.05, double=0.02, jitter=0.003)
    wire = Wire(CONTENT, link, link, seed, **options).run()
    assert bytes(wire.client.data) == CONTENT


@pytest.mark.parametrize("window", [1, 4, 16, 64])
@pytest.mark.parametrize(("loss", "whole"), [(0.05, 40), (0.2, 30)])
def test_loss_and_reordering(window: int, loss: float, whole: int) -> None:
    """With every twentieth datagram lost each transfer ends well; with every fifth, most do, and none hangs or lies."""
    link = Link(loss=loss, double=0.05, delay=0.002, jitter=0.004)
    done = 0
    for seed in range(40):
        wire = Wire(CONTENT, link, link, seed, blksize=512, windowsize=window).run()
        assert wire.server.ended
        if wire.client.done:
            assert bytes(wire.client.data) == CONTENT
            done += 1
        else:
            assert wire.client.error
    assert done >= whole


@pytest.mark.parametrize("window", [1, 4, 16])
def test_no_loss_no_retransmission(window: int) -> None:
    wire = Wire(CONTENT, Link(), Link(), 1, blksize=512, windowsize=window).run()
    assert (wire.server.retransmits, wire.server.error, wire.sent) == (0, "", len(CONTENT) // 512 + 2)
    assert bytes(wire.client.data) == CONTENT


@pytest.mark.parametrize(("window", "jitter"), [(1, 0.0), (1, 0.0005), (1, 0.005), (4, 0.0), (4, 0.0005), (4, 0.005), (16, 0.0)])
def test_the_sorcerers_apprentice_finds_no_work(window: int, jitter: float) -> None:
    """Every datagram arrives twice both ways, and still hardly anything is sent twice."""
    wire = Wire(CONTENT, Link(double=1.0, jitter=jitter), Link(double=1.0, jitter=jitter), 7, blksize=512, windowsize=window).run()
    assert bytes(wire.client.data) == CONTENT
    blocks = len(CONTENT) // 512 + 1
    assert wire.sent - 1 - blocks == wire.server.retransmits
    assert wire.server.retransmits <= (0 if window == 1 else 2 * blocks)


def test_one_late_echo_dies_out() -> None:
    """A retransmission that was not needed doubles one window, and no other."""
    blocks = Blocks(bytes(512 * 40), 512)
    agreed = Agreed(512, 4, None, {"windowsize": "4"})
    server = Transfer(blocks, agreed)
    server.begin(0.0)
    now = 0.1
    server.receive(packet.encode(Ack(0)), now)
    server.expire(server.deadline)
    assert server.retransmits == 4
    now = server.deadline
    for block in range(4, 40, 4):
        now += 0.1
        assert server.receive(packet.encode(Ack(block)), now) is not None
        echo = server.receive(packet.encode(Ack(block)), now + 0.09)
        assert echo is None or block > 4
        if echo is not None:
            break
    assert server.retransmits <= 8


def test_the_first_block_of_a_window_lost_is_sent_again_at_once() -> None:
    server = Transfer(Blocks(bytes(512 * 40), 512), Agreed(512, 4, None, {"windowsize": "4"}))
    server.begin(0.0)
    server.receive(packet.encode(Ack(0)), 0.1)
    assert server.receive(packet.encode(Ack(4)), 0.2) is not None
    assert server.receive(packet.encode(Ack(4)), 0.21) is None
    again = server.receive(packet.encode(Ack(4)), 0.3)
    assert again is not None
    assert bytes(again)[:4] == packet.header(5)
    assert server.receive(packet.encode(Ack(4)), 0.4) is None


def test_block_numbers_roll_over() -> None:
    data = random.Random(1).randbytes(8 * 65540)
    wire = Wire(data, Link(loss=0.0002), Link(), 1, blksize=8, windowsize=64).run()
    assert bytes(wire.client.data) == data


def test_an_empty_file_and_a_full_last_block() -> None:
    for size in (0, 512, 1024):
        wire = Wire(CONTENT[:size], Link(), Link(), 1).run()
        assert bytes(wire.client.data) == CONTENT[:size]
        assert not wire.server.error


def test_a_silent_client_is_given_up() -> None:
    server = Transfer(Blocks(b"x", 512), Agreed())
    server.begin(0.0)
    sent, waits, now = 0, [], 0.0
    while not server.ended:
        assert server.expire(server.deadline - 0.01) is None
        waits.append(server.deadline - now)
        now = server.deadline
        burst = server.expire(now)
        assert burst is not None
        sent += 1
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert isinstance(packet.parse(bytes(burst)), Error)
    assert server.error == "the client fell silent at block 1 of 1"
    assert server.expire(now + 100) is None
    assert server.receive(packet.encode(Ack(1)), now) is None


def test_a_timeout_that_was_asked_for_is_kept() -> None:
    server = Transfer(Blocks(b"x", 512), Agreed(timeout=3.0))
    server.begin(0.0)
    for due in (3.0, 6.0, 9.0):
        assert server.deadline == due
        server.expire(due)


def test_the_client_says_no() -> None:
    server = Transfer(Blocks(b"x", 512), Agreed(answer={"blksize": "512"}))
    server.begin(0.0)
    assert server.receive(packet.encode(Error(8, "not these options")), 0.1) is None
    assert (server.ended, server.probed) == (True, False)
    assert "not these options" in server.error
    assert "error 8" in server.error


def test_the_client_wanted_only_the_size() -> None:
    server = Transfer(Blocks(b"x", 512), Agreed(answer={"tsize": "1"}))
    server.begin(0.0)
    assert server.receive(packet.encode(Error(8, "only the size")), 0.1) is None
    assert (server.ended, server.probed, server.error) == (True, True, "")


def test_a_client_that_ends_a_transfer_it_began_did_not_probe() -> None:
    server = Transfer(Blocks(bytes(600), 512), Agreed(answer={"tsize": "600"}))
    server.begin(0.0)
    server.receive(packet.encode(Ack(0)), 0.1)
    server.receive(packet.encode(Error(3, "disk full")), 0.2)
    assert (server.ended, server.probed) == (True, False)
    assert "disk full" in server.error


def test_a_closed_port() -> None:
    server = Transfer(Blocks(bytes(600), 512), Agreed())
    server.begin(0.0)
    server.refused()
    assert server.error == "the client closed its port"
    last = Transfer(Blocks(bytes(10), 512), Agreed())
    last.begin(0.0)
    last.refused()
    assert (last.error, last.bytes_acknowledged) == ("", 10)


@given(st.lists(st.binary(max_size=8) | st.builds(lambda n: packet.encode(Ack(n)), st.integers(0, 65535)), max_size=40), OPTIONS)
def test_any_datagrams_keep_it_sane(datagrams: list[bytes], options: dict[str, int]) -> None:
    agreed = negotiate({key: str(value) for key, value in options.items()}, 3000, max_blksize=1468, max_window=64)
    server = Transfer(Blocks(CONTENT[:3000], agreed.blksize), agreed)
    server.begin(0.0)
    for index, datagram in enumerate(datagrams):
        burst = server.receive(datagram, 0.01 * index)
        assert burst is None or len(burst) <= MAX_BURST
    assert 0 <= server.bytes_acknowledged <= 3000


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({}, {}),
        ({"blksize": "1428"}, {"blksize": "1428"}),
        ({"blksize": "65464"}, {"blksize": "1468"}),
        ({"blksize": "99999999"}, {"blksize": "1468"}),
        ({"blksize": "7"}, {}),
        ({"blksize": "-5"}, {}),
        ({"blksize": "abc", "tsize": "0"}, {"tsize": "3000"}),
        ({"windowsize": "65535"}, {"windowsize": "64"}),
        ({"windowsize": "0"}, {}),
        ({"windowsize": "65536"}, {}),
        ({"timeout": "5"}, {"timeout": "5"}),
        ({"timeout": "0"}, {}),
        ({"timeout": "255"}, {}),
        ({"unknown": "1"}, {}),
    ],
)
def test_options(asked: dict[str, str], answer: dict[str, str]) -> None:
    assert negotiate(asked, 3000, max_blksize=1468, max_window=64).answer == answer


def test_a_burst_is_bounded() -> None:
    agreed = negotiate({"blksize": "65464", "windowsize": "64"}, 1, max_blksize=65464, max_window=64)
    assert (agreed.blksize, agreed.windowsize) == (65464, 2)
