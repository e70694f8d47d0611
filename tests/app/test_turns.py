"""Turns: a crowd goes on a few at a time, in order, and others have theirs in between."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

from metald.turns import Calls, Turns


async def _rounds(done: list[int], count: int) -> list[int]:
    """How many more are done after each round of the loop, until all are."""
    seen = [len(done)]
    while len(done) < count:
        await asyncio.sleep(0)
        seen.append(len(done))
    return [after - before for before, after in itertools.pairwise(seen)]


async def test_a_crowd_of_tasks_takes_turns() -> None:
    turns, done = Turns(4), list[int]()

    async def one(number: int) -> None:
        await turns.take()
        done.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number))
        assert max(await _rounds(done, 100)) <= 4
    assert done == list(range(100))


async def test_a_task_that_no_longer_wants_its_turn_takes_none_from_others() -> None:
    turns, done = Turns(1), list[int]()

    async def one(number: int) -> None:
        await turns.take()
        done.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(10)]
    await asyncio.sleep(0)
    for task in tasks[2:8]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [0, 1, 8, 9]


async def test_a_crowd_of_calls_is_made_a_few_in_each_round_and_in_order() -> None:
    calls, done = Calls(4), list[int]()
    for number in range(100):
        calls.soon(partial(done.append, number))
    assert done == [0, 1, 2, 3], "those that are not in a crowd do not wait"
    assert max(await _rounds(done, 100)) <= 4
    assert done == list(range(100))


async def test_calls_that_are_asked_for_meanwhile_come_after_those_that_wait() -> None:
    calls, done = Calls(2), list[int]()

    def one(number: int) -> None:
        done.append(number)
        if number < 6:
            calls.soon(partial(one, number + 6))

    for number in range(6):
        calls.soon(partial(one, number))
    await _rounds(done, 12)
    assert sorted(done) == list(range(12))
    assert [number for number in done if number < 6] == list(range(6))
    assert done.index(5) < done.index(8)


async def test_once_the_crowd_is_through_a_call_is_made_at_once_again() -> None:
    calls, done = Calls(2), list[int]()
    for number in range(6):
        calls.soon(partial(done.append, number))
    await _rounds(done, 6)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls.soon(partial(done.append, 6))
    assert done[-1] == 6


async def test_a_call_that_raises_takes_nothing_from_others() -> None:
    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _loop, context: raised.append(context["exception"]))
    calls, done = Calls(1), list[int]()

    def broken() -> None:
        raise RuntimeError("not your concern")

    calls.soon(partial(done.append, 0))
    calls.soon(broken)
    calls.soon(partial(done.append, 1))
    await _rounds(done, 2)
    assert [str(error) for error in raised] == ["not your concern"]
