"""Deadlines: they come in order, once, and a dropped or moved one does not come at its old time."""

from __future__ import annotations

import asyncio

from metald.statemachine.timers import Timers


async def test_deadlines_come_in_their_order() -> None:
    came: list[str] = []
    timers = Timers(came.append)
    timers.set("late", 0.03)
    timers.set("early", 0.01)
    timers.set("at once", 0.0)
    assert len(timers) == 3
    while len(came) < 3:
        await asyncio.sleep(0.005)
    assert came == ["at once", "early", "late"]
    assert len(timers) == 0


async def test_a_dropped_or_moved_deadline_does_not_come() -> None:
    came: list[str] = []
    timers = Timers(came.append)
    timers.set("dropped", 0.0)
    timers.set("moved", 0.0)
    timers.drop("dropped")
    timers.drop("never set")
    timers.set("moved", 0.02)
    timers.set("last", 0.04)
    while "last" not in came:
        await asyncio.sleep(0.005)
    assert came == ["moved", "last"]


async def test_closing_forgets_everything() -> None:
    came: list[str] = []
    timers = Timers(came.append)
    timers.set("a", 0.0)
    timers.close()
    await asyncio.sleep(0.01)
    assert came == []
