"""Acknowledgements: tells the broker which messages of a channel it may forget, many with one frame.

Rules: what never arrived here is never acknowledged, also not by one frame for all up to a later one.
"""

from __future__ import annotations

import asyncio

from aiormq.abc import AbstractChannel as RawChannel


class Acks:
    """Acknowledges what is done: everything up to the first that is not with one frame, the rest one by one.

    Args:
        channel: that the messages came by.
    """

    def __init__(self, channel: RawChannel) -> None:
        self._channel = channel
        self._open: dict[int, bool] = {}
        self._last = 0
        self._some = asyncio.Event()
        self._sent = asyncio.Event()

    def begin(self, tag: int) -> None:
        """A message has come. RabbitMQ numbers those of a channel one after the other."""
        for never_seen in range(self._last + 1, tag):
            self._open[never_seen] = False
        self._open[tag] = False
        self._last = tag

    def done(self, tag: int) -> None:
        """A message may be forgotten by the broker."""
        self._open[tag] = True
        self._some.set()

    async def sent(self, tag: int) -> None:
        """Wait until a message is acknowledged."""
        while tag in self._open:
            self._sent.clear()
            await self._sent.wait()

    async def fewer(self, than: int) -> None:
        """Wait until fewer messages than so many are here and not acknowledged."""
        while len(self._open) >= than:
            self._sent.clear()
            await self._sent.wait()

    async def run(self) -> None:
        """Acknowledge, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(0)  # those of the same commit come in the same turn of the loop
            self._some.clear()
            last = 0
            for tag, done in self._open.items():
                if not done:
                    break
                last = tag
            finished = [tag for tag, done in self._open.items() if done]
            if last:
                await self._channel.basic_ack(last, multiple=True)
            for tag in finished:
                if tag > last:
                    await self._channel.basic_ack(tag)
                del self._open[tag]
            self._sent.set()
