"""Acknowledgements: tells the broker which messages of a channel it may forget, many with one frame."""

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
        self._some = asyncio.Event()
        self._sent = asyncio.Event()

    def begin(self, tag: int) -> None:
        """A message has come."""
        self._open[tag] = False

    def done(self, tag: int) -> None:
        """A message may be forgotten by the broker."""
        self._open[tag] = True
        self._some.set()

    async def all_sent(self) -> None:
        """Wait until everything that has come is acknowledged."""
        while self._open:
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
