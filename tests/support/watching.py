"""A watcher's side: reads a stream of Server-Sent Events as the WHATWG standard says an EventSource does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientResponse

PATIENCE = 20.0


@dataclass
class Told:
    """One dispatched event."""

    kind: str
    data: Any
    id: str


class EventSource:
    """Reads one answer."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer
        self.last_id = ""
        self.comments: list[str] = []
        self._events = self._read()

    async def _read(self) -> AsyncIterator[Told]:
        kind, data = "", []
        async for line in self.answer.content:
            text = line.decode().rstrip("\n")
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if not text:
                if data:
                    yield Told(kind or "message", json.loads("\n".join(data)), self.last_id)
                kind, data = "", []
            elif not name:
                self.comments.append(value)
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = value

    async def next(self) -> Told:
        """The next event.

        Raises:
            StopAsyncIteration: the stream has ended.
        """
        async with asyncio.timeout(PATIENCE):
            return await anext(self._events)

    async def take(self, count: int) -> list[Told]:
        """The next events."""
        return [await self.next() for _ in range(count)]

    async def until(self, kind: str) -> list[Told]:
        """Everything up to and with the next event of a kind."""
        found = [await self.next()]
        while found[-1].kind != kind:
            found.append(await self.next())
        return found
