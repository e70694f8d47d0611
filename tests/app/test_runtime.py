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


def test_a_preferred_socket_is_served_before_a_crowd_and_as_the_others_once_it_is_no_more() -> None:
    crowd = 300

    async def behind(preferred: bool) -> int:
        """How many of the crowd are served before a socket that becomes ready as the last."""
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(crowd + 1)]
        one = pairs[-1]
        served: list[int] = []
        done = asyncio.Event()

        def readable(number: int) -> None:
            pairs[number][0].recv(1)
            served.append(number)
            if len(served) == len(pairs):
                done.set()

        loop.add_reader(one[0], readable, crowd)
        runtime.prefer(one[0].fileno(), preferred)
        for number, (ours, theirs) in enumerate(pairs[:-1]):
            loop.add_reader(ours, readable, number)
            theirs.send(b"x")
        one[1].send(b"x")
        async with asyncio.timeout(60):
            await done.wait()
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            ours.close()
            theirs.close()
        return served.index(crowd)

    async def run() -> None:
        assert await behind(True) == 0
        # the same numbers again: descriptors are given anew, lowest first
        assert await behind(False) >= 64

    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        runner.run(run())


def test_a_preferred_socket_alone_wakes_the_loop() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        got = asyncio.Event()
        runtime.prefer(ours.fileno())
        loop.add_reader(ours, got.set)
        loop.call_later(0.05, theirs.send, b"x")
        async with asyncio.timeout(60):
            await got.wait()
        loop.remove_reader(ours)
        runtime.prefer(ours.fileno(), preferred=False)
        ours.close()
        theirs.close()

    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        runner.run(run())
