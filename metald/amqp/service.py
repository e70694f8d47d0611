"""The broker's part of the daemon, put together: the link and who uses it."""

from __future__ import annotations

from metald.amqp.cloudevents import CONTENT_TYPE, encode, routing_key
from metald.amqp.link import Link
from metald.amqp.place import Place
from metald.amqp.publisher import CloudEventVoice, Publisher, Voice
from metald.config import Settings
from metald.store.store import Store


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
        self.link = Link(settings.amqp, f"metald {hostname}")
        self.publisher: Publisher | None = None
        source = settings.events.source
        voices: list[Voice] = []
        if settings.amqp.publish:
            voices.append(CloudEventVoice(settings.amqp, lambda event: encode(event, source), routing_key, CONTENT_TYPE))
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

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self.link.run()
        finally:
            if self.publisher is not None:
                await self.publisher.close()
