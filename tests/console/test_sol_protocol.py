"""The remote console's half of SOL in memory, against the simulator's half, over a network that loses packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.sol import SolProtocol, believable
from metald.sim.sol import SIZE, Sol


@given(
    st.binary(max_size=3 * SIZE),
    st.binary(max_size=3 * SIZE),
    st.lists(st.booleans(), max_size=60),
    st.integers(0, 3),
)
def test_everything_arrives_once_and_in_order_both_ways_whatever_is_lost(
    typed: bytes, printed: bytes, luck: list[bool], breaks: int
) -> None:
    console, bmc = SolProtocol(SIZE + 4), Sol(1)
    console.write(typed)
    for _ in range(breaks):
        console.send_break()
    bmc.write(printed)
    arrived, shown, now = b"", b"", 0.0
    fates = iter(luck)
    lost = 0

    def through() -> bool:
        nonlocal lost
        if next(fates, True) or lost >= 4:  # so few that neither side gives up
            return True
        lost += 1
        return False

    for _ in range(400):
        for packet in console.take(now):
            if through():
                arrived += bmc.feed(packet)
        for packet in bmc.take(now):
            if through():
                shown += console.feed(packet, now)
        now += 0.5
        if len(arrived) >= len(typed) and len(shown) >= len(printed) and bmc.breaks >= breaks and console.due is None:
            break
    assert (arrived, shown, bmc.breaks, console.lost) == (typed, printed, breaks, False)


def test_what_the_bmc_took_in_part_goes_on_where_it_stopped() -> None:
    console = SolProtocol(104)
    console.write(b"abcdef")
    (first,) = console.take(0.0)
    assert first == b"\x01\x00\x00\x00abcdef"
    console.feed(b"\x00\x01\x02\x00", 0.1)
    assert console.take(0.1) == [b"\x02\x00\x00\x00cdef"]
    console.feed(b"\x00\x02\x01\x40", 0.2)  # one more, and no more for now
    assert console.take(0.3) == []
    assert console.due == 0.7
    assert console.take(0.7) == [b"\x03\x00\x00\x00def"]


def test_a_packet_that_comes_again_with_more_behind_it_gives_only_the_new() -> None:
    console = SolProtocol(104)
    assert console.feed(b"\x05\x00\x00\x00log", 0.0) == b"log"
    assert console.feed(b"\x05\x00\x00\x00login:", 0.1) == b"in:"
    assert console.feed(b"\x06\x00\x00\x00 ", 0.2) == b" "
    assert console.take(0.2) == [b"\x00\x05\x03\x00", b"\x00\x05\x06\x00", b"\x00\x06\x01\x00"]


def test_nobody_who_acknowledges_is_a_lost_line() -> None:
    console = SolProtocol(104)
    console.write(b"x")
    sent = 0
    for second in range(20):
        sent += len(console.take(float(second)))
    assert (sent, console.lost, console.due) == (6, True, None)


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_whatever_comes_from_a_bmc_does_no_harm(payloads: list[bytes]) -> None:
    console = SolProtocol(9)
    console.write(b"some text that is longer than one packet")
    for now, payload in enumerate(payloads):
        console.take(float(now))
        console.feed(payload, float(now))


@pytest.mark.parametrize(("said", "size"), [(5, 5), (255, 255), (1024, 1024), (0, 68), (4, 68), (0x8000, 128), (0xFF00, 255), (0xFFFF, 68)])
def test_sizes_that_cannot_be_are_read_as_what_they_may_mean(said: int, size: int) -> None:
    assert believable(said) == size
