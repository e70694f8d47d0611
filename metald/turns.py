"""Turns: a crowd passes a few at a time, so that whoever comes meanwhile is not kept waiting behind all of it.

When a thousand tasks become ready in the same moment, the event loop runs every one of them before it looks at a socket
again. Those that take a turn first go on a few in each round of the loop, in the order they came. Nothing is held: whoever
has had its turn may wait for as long as it likes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Lets so many pass in each round of the event loop.

    Args:
        each_round: how many.
    """

    def __init__(self, each_round: int) -> None:
        self._each_round = each_round
        self._left = each_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resets = False

    async def take(self) -> None:
        """Return when it is the caller's turn: at once unless others came in the same round."""
        if self._left and not self._waiting:
            self._left -= 1
            self._later()
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        self._later()
        await turn

    def _later(self) -> None:
        if not self._resets:
            self._resets = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._resets = False
        self._left = self._each_round
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._waiting or self._left < self._each_round:
            self._later()


class Calls:
    """Makes so many calls in each round of the event loop, in the order they were asked for.

    For whoever wakes a crowd: each that is woken runs before the loop looks at a socket again.

    Args:
        each_round: how many.
    """

    def __init__(self, each_round: int) -> None:
        self._each_round = each_round
        self._left = each_round
        self._waiting: deque[Callable[[], None]] = deque()
        self._resets = False

    def soon(self, call: Callable[[], None]) -> None:
        """Have `call` called: at once unless others were in the same round. What it raises then goes to the loop."""
        if self._left and not self._waiting:
            self._left -= 1
            call()
        else:
            self._waiting.append(call)
        self._later()

    def _later(self) -> None:
        if not self._resets:
            self._resets = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._resets = False
        self._left = self._each_round
        try:
            while self._waiting and self._left:
                self._left -= 1
                self._waiting.popleft()()
        finally:
            if self._waiting or self._left < self._each_round:
                self._later()
