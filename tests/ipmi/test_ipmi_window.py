"""The admission window: order, cancellation, and logins that step aside."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.window import AdmissionWindow


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_urgent_callers_go_first_and_each_kind_in_order() -> None:
    window = AdmissionWindow(1)
    await window.acquire()
    order: list[str] = []

    async def enter(name: str, urgent: bool) -> None:
        await window.acquire(urgent=urgent)
        order.append(name)
        window.release()

    tasks = [asyncio.create_task(enter(name, name.startswith("u"))) for name in ("b1", "u1", "b2", "u2")]
    await _settle()
    assert window.waiting == 4
    window.release()
    await asyncio.gather(*tasks)
    assert order == ["u1", "u2", "b1", "b2"]
    assert window.taken == 0


async def test_who_steps_aside_lets_the_next_one_in_up_to_a_bound() -> None:
    window = AdmissionWindow(2)
    for _ in range(10):
        await window.acquire()
        if not window.step_aside():
            break
    assert (window.aside, window.taken) == (8, 1)
    window.leave_aside()
    assert window.step_aside()


def _run(steps: list[tuple[str, int]], limit: int) -> None:
    async def scenario() -> None:
        window = AdmissionWindow(limit)
        waiting: list[asyncio.Task[None]] = []
        inside = 0
        for what, which in steps:
            if what == "enter":
                waiting.append(asyncio.create_task(window.acquire(urgent=bool(which % 2))))
            elif what == "cancel" and waiting:
                waiting[which % len(waiting)].cancel()
            elif what == "leave" and inside:
                inside -= 1
                window.release()
                if which % 2 and waiting:
                    waiting[0].cancel()  # in the very moment in which the place may be handed over
            if which % 3:
                await asyncio.sleep(0)
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                inside += not task.cancelled()
        await _settle()
        inside += sum(task.done() and not task.cancelled() for task in waiting)
        assert window.taken == inside <= limit
        left = [task for task in waiting if not task.done()]
        assert window.waiting == len(left)
        assert not left or inside == limit
        for task in left:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(scenario())


@given(st.lists(st.tuples(st.sampled_from(["enter", "enter", "leave", "cancel"]), st.integers(0, 9)), max_size=40), st.integers(1, 3))
def test_no_place_is_ever_lost_or_given_twice(steps: list[tuple[str, int]], limit: int) -> None:
    _run(steps, limit)
