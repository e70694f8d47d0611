"""Turns: a crowd passes a few at a time, so that whoever comes meanwhile is not kept waiting behind all of it.

When a thousand tasks become ready in the same moment, the event loop runs every one of them before it looks at a socket
again. Those that take a turn first go on a few in each round of the loop, in the order they came; whoever would wake them has its
calls made in such turns. Nothing is held: whoever has had its turn may wait for as long as it likes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial


class Calls:
    """Makes so many calls in each round of the event loop, in the order they were asked for.

    Args:
        each_round: how many.
    """

    def __init__(self, each_round: int) -> None:
        self._each_round = each_round
        self._left = each_round
        self._waiting: deque[Callable[[], bool | None]] = deque()
        self._resets = False

    def soon(self, call: Callable[[], bool | None]) -> None:
        """Have `call` called: at once unless others were in the same round. What it raises then goes to the loop.

        One that returns False had nothing to do, and takes no turn from others.
        """
        if self._left and not self._waiting:
            self._make(call)
        else:
            self._waiting.append(call)
        self._later()

    def _make(self, call: Callable[[], bool | None]) -> None:
        self._left -= 1
        if call() is False:
            self._left += 1

    def _later(self) -> None:
        if not self._resets:
            self._resets = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._resets = False
        self._left = self._each_round
        try:
            while self._waiting and self._left:
                self._make(self._waiting.popleft())
        finally:
            if self._waiting or self._left < self._each_round:
                self._later()


class Turns:
    """Lets so many tasks pass in each round of the event loop.

    Args:
        each_round: how many.
    """

    def __init__(self, each_round: int) -> None:
        self._calls = Calls(each_round)

    async def take(self) -> None:
        """Return when it is the caller's turn: at once unless others came in the same round."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.soon(partial(_grant, turn))
        await turn


def _grant(turn: asyncio.Future[None]) -> bool:
    """Wake who waits for it; False when nobody does any more."""
    if turn.done():
        return False
    turn.set_result(None)
    return True
