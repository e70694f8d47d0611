"""The daemon's event loop: a crowd of sockets does not hold up what else there is to do."""

from __future__ import annotations

import asyncio
import socket

from metald import runtime


def test_a_crowd_of_ready_sockets_is_served_in_turns_and_others_go_on_meanwhile() -> None:
    crowd = 500
    served: list[int] = []
    rounds = 0

    async def run() -> None:
        nonlocal rounds
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(crowd)]
        done = asyncio.Event()

        def readable(number: int) -> None:
            pairs[number][0].recv(1)
            served.append(number)
            if len(served) == 2 * crowd:
                done.set()

        def tick() -> None:
            nonlocal rounds
            rounds += 1
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
    assert rounds >= 2 * crowd / 24


def test_processes_signals_and_threads_work_on_it() -> None:
    async def run() -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait(), await asyncio.to_thread(lambda: "from a thread")

    with asyncio.Runner(loop_factory=runtime.loop) as runner:
        assert runner.run(run()) == (0, "from a thread")
