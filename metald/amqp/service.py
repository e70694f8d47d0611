"""The broker's part of the daemon, put together: the links and who uses them."""

from __future__ import annotations

import asyncio

from metald.amqp.cloudevents import CONTENT_TYPE, encode, routing_key
from metald.amqp.commands.assembly import Commands
from metald.amqp.commands.door import Api
from metald.amqp.link import Link
from metald.amqp.notifications import IronicVoice
from metald.amqp.place import Place
from metald.amqp.publisher import CloudEventVoice, Publisher, Voice
from metald.config import Settings
from metald.store.store import Store

_LAST = 2.0
"""Seconds that the last events have for reaching the broker at a stop."""


class Broker:
    """What runs while `amqp.url` is set.

    Args:
        settings: the daemon's.
        store: the state.
        hostname: this conductor's name.

    Raises:
        ConfigError: the address or a TLS file cannot be used.
    """

    def __init__(self, settings: Settings, store: Store, hostname: str) -> None:
        self._name = f"metald {hostname}"
        self.link = Link(settings.amqp, self._name, "events and answers")
        """By which is published."""
        self._settings = settings
        self._store = store
        self.publisher: Publisher | None = None
        self.commands: Commands | None = None
        source = settings.events.source
        voices: list[Voice] = []
        if settings.amqp.publish:
            voices.append(CloudEventVoice(settings.amqp, lambda event: encode(event, source), routing_key, CONTENT_TYPE))
        if settings.amqp.notifications:
            voices.append(IronicVoice(settings.amqp, store, hostname))
        if voices:
            self.publisher = Publisher(self.link, settings.amqp, store, Place(store, "amqp", hostname), voices)
            self.link.attach("events", self.publisher.publish)

    async def prepare(self) -> None:
        """Before anything happens that shall be told.

        Raises:
            Unavailable: the database cannot be used now.
        """
        if self.publisher is not None:
            await self.publisher.prepare()

    def take_commands(self, api: Api) -> None:
        """Take commands too, unless the settings say otherwise. Before `run`.

        Args:
            api: what commands are asked of.

        Raises:
            ConfigError: the file of users or of keys cannot be used.
        """
        if self._settings.amqp.commands.enabled:
            link = Link(self._settings.amqp, f"{self._name} commands", "commands")
            self.commands = Commands(self._settings, self._store, self.link, link, api)

    async def run(self) -> None:
        """Until cancelled; what was told by then has a moment to reach the broker."""
        link = asyncio.create_task(self.link.run(), name="link")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_ended(link))
                if self.commands is not None:
                    group.create_task(self.commands.run(), name="commands")
        finally:
            if self.publisher is not None:
                await self.publisher.drain(_LAST)
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)
            if self.publisher is not None:
                await self.publisher.close()


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task, which is not ended if this is."""
    await asyncio.shield(task)
