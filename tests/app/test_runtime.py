"""The daemon's event loop: a crowd of sockets does not hold up what else there is to do."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from metald import runtime


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 64), (0.0005, 8)], ids=["in no time", "slowly"])
def test_a_crowd_of_ready_sockets_is_served_in_turns_and_others_go_on_meanwhile(seconds: float, most: int) -> None:
    crowd = 500
    served: list[int] = []
    rounds = 0
    largest = 0

    async def run() -> None:
        nonlocal rounds, largest
        before = 0
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(crowd)]
        done = asyncio.Event()

        def readable(number: int) -> None:
            pairs[number][0].recv(1)
            time.sleep(seconds)
            served.append(number)
            if len(served) == 2 * crowd:
                done.set()

        def tick() -> None:
            nonlocal rounds, largest, before
            rounds += 1
            if rounds > 3:  # the first ones have nothing to go by
                largest = max(largest, len(served) - before)
            before = len(served)
            if not done.is_set():
                loop.call_soon(tick)

        for number, (ours, theirs) in enumerate(pairs):
            theirs.send(b"xx")
            loop.add_reader(ours, readable, number)
        tick()
        async with asyncio.timeout(60):
            await done.wait()
        for number, (ours, theirs) in enumerate(pairs):
            assert loop.remove_reader(ours), number
            ours.close()
            theirs.close()

    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        runner.run(run())
    assert sorted(served) == sorted([*range(crowd), *range(crowd)])
    assert set(served[:crowd]) == set(range(crowd)), "nobody is served twice before everybody was served once"
    assert rounds >= 2 * crowd / 64
    assert largest <= most


def test_processes_signals_and_threads_work_on_it() -> None:
    async def run() -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait(), await asyncio.to_thread(lambda: "from a thread")

    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        assert runner.run(run()) == (0, "from a thread")


async def test_full_collections_take_a_small_share_of_the_time_however_long_each_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    pauses: list[float] = []

    def collect() -> None:
        nonlocal clock
        clock += 1.0 if len(pauses) == 2 else 0.01

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr("metald.runtime.gc.collect", collect)
    monkeypatch.setattr("metald.runtime.time.perf_counter", lambda: clock)
    monkeypatch.setattr("metald.runtime.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await runtime.tidy()
    assert pauses == pytest.approx([20.0, 20.0, 500.0, 20.0])
