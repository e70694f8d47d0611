"""Transfers that are heard together: few as they speak, a crowd many at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from metald.boot.tftp.wire import Ears


class Crowd:
    """Sockets whose readers take what arrives and note who spoke."""

    def __init__(self, count: int) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        self.heard: list[int] = []
        self._changed = asyncio.Event()

    def listen(self, ears: Ears) -> None:
        for number, (own, _) in enumerate(self.pairs):
            own.setblocking(False)
            ears.add(own.fileno(), lambda number=number, own=own: self._take(number, own))  # type: ignore[misc]

    def _take(self, number: int, own: socket.socket) -> None:
        own.recv(16)
        self.heard.append(number)
        self._changed.set()

    def speak(self, *who: int) -> None:
        for number in who:
            self.pairs[number][1].send(b"x")

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.heard) < count:
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        for pair in self.pairs:
            for each in pair:
                each.close()


@pytest.fixture
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    with contextlib.closing(Crowd(request.param)) as made:
        yield made


@pytest.mark.parametrize("crowd", [3, 200], indirect=True)
async def test_everybody_is_heard_again_and_again(crowd: Crowd) -> None:
    ears = Ears()
    crowd.listen(ears)
    everybody = range(len(crowd.pairs))
    for turn in range(1, 4):
        crowd.speak(*everybody)
        await crowd.until(turn * len(everybody))
        crowd.speak(0)
        await crowd.until(turn * len(everybody) + 1)
        crowd.heard.pop()
    assert all(crowd.heard.count(number) == 3 for number in everybody)
    ears.close()


@pytest.mark.parametrize("crowd", [200], indirect=True)
async def test_nobody_is_heard_once_the_ears_are_closed_while_they_rest(crowd: Crowd) -> None:
    ears = Ears()
    crowd.listen(ears)
    crowd.speak(0)
    await crowd.until(1)
    await asyncio.sleep(0)  # they rest now, or have rested and listen again
    ears.close()
    crowd.speak(1)
    await asyncio.sleep(0.01)
    assert crowd.heard == [0]


@pytest.mark.parametrize("crowd", [200], indirect=True)
async def test_a_crowd_that_shrinks_is_heard_to_the_last(crowd: Crowd) -> None:
    ears = Ears()
    crowd.listen(ears)
    crowd.speak(0)
    await crowd.until(1)
    for own, _ in crowd.pairs[2:]:
        ears.remove(own.fileno())
    crowd.speak(1)
    await crowd.until(2)
    ears.close()
