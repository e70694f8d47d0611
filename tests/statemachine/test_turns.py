"""Turns: order, fairness to others, and callers that give up."""

from __future__ import annotations

import asyncio

import pytest

from metald.turns import Turns


async def test_a_crowd_passes_in_order_and_a_few_each_round() -> None:
    turns = Turns(3)
    rounds = 0
    passed: list[tuple[int, int]] = []

    def count() -> None:
        nonlocal rounds
        rounds += 1
        asyncio.get_running_loop().call_soon(count)

    async def one(number: int) -> None:
        await turns.take()
        passed.append((rounds, number))

    asyncio.get_running_loop().call_soon(count)
    await asyncio.gather(*(one(number) for number in range(20)))
    assert [number for _, number in passed] == list(range(20))
    each_round = [sum(1 for r, _ in passed if r == at) for at in {r for r, _ in passed}]
    assert max(each_round) <= 3


async def test_nothing_is_held_by_those_who_passed() -> None:
    turns = Turns(1)
    for _ in range(5):
        await turns.take()  # nobody gives anything back


async def test_who_gives_up_leaves_the_turn_to_the_next() -> None:
    turns = Turns(1)
    first, impatient, patient = (asyncio.ensure_future(turns.take()) for _ in range(3))
    await first
    impatient.cancel()
    await patient
    with pytest.raises(asyncio.CancelledError):
        await impatient
