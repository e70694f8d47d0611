"""Limits: who passes, who waits for what, and how bytes are shared."""

from __future__ import annotations

import asyncio

import pytest

from metald.limits import Bandwidth, Gate, Limits, on_behalf_of


async def test_so_many_are_inside_and_the_others_wait_in_order() -> None:
    gate = Gate(2, "a thing", "section.things")
    inside: list[int] = []
    leave = asyncio.Event()

    async def one(number: int) -> None:
        with on_behalf_of(f"node-{number}"):
            async with gate:
                inside.append(number)
                await leave.wait()

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    while len(gate.queue) < 3:
        await asyncio.sleep(0)
    assert inside == [0, 1]
    limits = Limits([gate.queue])
    assert limits.of("node-0") == []
    (waiting,) = limits.of("node-4")
    assert (waiting.what, waiting.setting, waiting.ahead) == ("a thing", "section.things", 2)
    leave.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 1, 2, 3, 4]
    assert (gate.inside, len(gate.queue), gate.queue.passed) == (0, 0, 3)
    assert limits.of("node-4") == []


async def test_who_gives_up_waiting_takes_no_place() -> None:
    gate = Gate(1, "a thing", "section.things")
    async with gate:

        async def pass_through() -> None:
            async with gate:
                raise AssertionError("it was full")

        task = asyncio.create_task(pass_through())
        while not len(gate.queue):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(gate.queue) == 0
    async with gate:
        assert gate.inside == 1


async def test_bandwidth_without_a_limit_never_waits() -> None:
    free = Bandwidth(0, "bytes", "section.bytes")
    await free.take(1 << 40)
    assert (free.bytes, free.queue.passed) == (1 << 40, 0)


async def test_bandwidth_makes_those_wait_who_are_ahead_of_the_clock() -> None:
    tight = Bandwidth(1_000_000, "bytes", "section.bytes", burst=0.001)
    await asyncio.gather(*(tight.take(5_000) for _ in range(4)))
    assert tight.queue.passed >= 3
    assert tight.queue.waited > 0
