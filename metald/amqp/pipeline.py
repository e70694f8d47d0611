"""Pipeline: many messages on their way to the broker at once, in order, each with the broker's answer to come."""

from __future__ import annotations

import asyncio
from typing import Any

from aiormq.channel import Channel
from pamqp.commands import Basic


class Pipeline:
    """Publishes on one channel that has confirms on. Close it: what was not answered is given up.

    Args:
        channel: the channel; nobody else publishes on it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tasks: set[asyncio.Task[Any]] = set()

    def publish(self, exchange: str, key: str, body: bytes, properties: Basic.Properties) -> asyncio.Future[Any]:
        """Send a message after those before it; `message_id` must be its own.

        Returns:
            What becomes of it: Basic.Ack, or the message itself when it came back unroutable; or the broker's error.
        """
        task = asyncio.ensure_future(
            self._channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties, mandatory=True, wait=False)
        )
        self._tasks.add(task)
        task.add_done_callback(self._answered)
        return task

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # the first error ends the session; those of the messages after it say nothing new
            task.exception()

    async def close(self) -> None:
        """Give up what was not answered."""
        waiting = list(self._tasks)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
