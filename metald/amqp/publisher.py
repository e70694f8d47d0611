"""Publisher: every event to the broker, in sequence, at least once.

Rules: an event is done with when the broker has confirmed it and all before it; what is done with is made durable a few
times a second, so a crash repeats the last moments with the same ids and loses nothing. Whatever goes wrong (connection,
channel, exchange, refusal), publishing starts again after the last confirmed event. At most `in_flight` messages are
unconfirmed, so a broker that stalls costs no memory: events wait in the store. Messages are mandatory: those that no
queue wants come back, are counted, and are done with, as nobody subscribed to them. An event that a form cannot express is
logged, counted, and told of as dropped: it would do no better at another try, and all others would wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel

from metald.amqp import topology
from metald.amqp.link import Link, closed
from metald.amqp.outbox import Outbox
from metald.amqp.pipeline import Message, Pipeline
from metald.amqp.place import Lost, Place
from metald.config import Amqp
from metald.errors import MetaldError
from metald.metrics import Histogram
from metald.model import Event
from metald.model.event import dropped
from metald.store.store import Store

_log = logging.getLogger(__name__)

_READ = 512
"""Events taken from the outbox at a time: most of what one transaction of a storm tells, and 10 ms of the loop."""
_SAVE = 0.25
"""Seconds between two writes of the place."""


class Voice(ABC):
    """One form in which events are published. Subclasses say what is needed on the broker, and what each event becomes."""

    @abstractmethod
    async def declare(self, channel: Any) -> None:
        """Make or look for exchanges and queues."""

    @abstractmethod
    def messages(self, event: Event) -> Iterable[Message]:
        """What an event becomes; nothing, one, or more."""


class Publisher:
    """Publishes from the outbox. `Link.attach("events", publisher.publish)`.

    Args:
        link: the connection.
        settings: how many in flight.
        store: whose events.
        place: how far they have been published.
        voices: the forms.
    """

    def __init__(self, link: Link, settings: Amqp, store: Store, place: Place, voices: Sequence[Voice]) -> None:
        self._link = link
        self._settings = settings
        self._store = store
        self._place = place
        self._voices = voices
        self._confirmed = 0
        self._handed = 0  # the last event of which every message is in the pipeline
        self._standby = False
        self._progress = asyncio.Event()
        self._calm = asyncio.Event()
        self.active = False
        """Whether this daemon publishes now."""
        self.published = 0
        """Messages that the broker confirmed."""
        self.unroutable = 0
        """Of these, messages that came back because no queue wanted them."""
        self.restarts = 0
        """How often publishing began again after the last confirmed event."""
        self.dropped = 0
        """Events that were purged before they could be published."""
        self.unmade: Counter[str] = Counter()
        """For each type, how often a voice could make no message of an event."""
        self.delay = Histogram()
        """Seconds from an event's transaction until it has left for the broker."""

    @property
    def waiting(self) -> int:
        """Events that have not been confirmed yet; 0 while another daemon publishes."""
        return 0 if self._standby else max(0, self._store.last_seq - self._confirmed)

    async def prepare(self) -> None:
        """Before anything happens: from here on every event is published.

        Raises:
            Unavailable: the database cannot be used now.
        """
        self._confirmed = await self._place.prepare()

    async def drain(self, most: float) -> None:
        """Wait until the broker has confirmed everything, or publishing ends, or `most` seconds have passed."""
        try:
            async with asyncio.timeout(most):
                while self.active and self.waiting and not self._link.blocked:
                    self._calm.clear()
                    await self._calm.wait()
        except TimeoutError:
            _log.info("%d events are not published yet; they will be after the next start", self.waiting)

    async def close(self) -> None:
        """Make the place durable and let another daemon have it. After the link has ended."""
        try:
            if self._place.held:
                await self._place.move(self._confirmed)
        except (Lost, MetaldError) as error:
            _log.debug("the place in the events was not written: %r", error)
        await self._place.release()

    async def publish(self, connection: AbstractConnection) -> None:
        """Publish for as long as the connection holds.

        Raises:
            AMQPError, TimeoutError: the broker refuses something.
        """
        while True:
            try:
                await self._place.acquire()
                # ours all along: what was confirmed but is not written down yet counts too
                self._confirmed = self._place.seq if self._standby else max(self._confirmed, self._place.seq)
                self._standby = False
                await self._session(connection)
            except Lost:
                self._standby = True
                _log.warning("another daemon publishes the events now; standing by")
            except MetaldError as error:
                _log.warning("events cannot be read: %s; trying again", error)
                await asyncio.sleep(1.0)

    async def _session(self, connection: AbstractConnection) -> None:
        outbox = Outbox(self._store, self._confirmed)
        self._handed = self._confirmed
        try:
            async with self._link.channel(connection) as channel:
                self.active = True
                self.restarts += 1
                for voice in self._voices:
                    await voice.declare(channel)
                async with asyncio.timeout(self._link.timeout):
                    bare = await channel.get_underlay_channel()
                assert isinstance(bare, Channel)
                pipeline = Pipeline(bare, lambda count: self._note(pipeline, count), self._came_back)
                try:
                    await _together(self._send(outbox, pipeline), self._save(), _failed(pipeline.refused), closed(bare))
                finally:
                    pipeline.close()
        finally:
            self.active = False
            self._calm.set()
            outbox.close()

    async def _send(self, outbox: Outbox, pipeline: Pipeline) -> None:
        """Hand events to the broker, as many as may be on their way."""
        while True:
            await self._link.unblocked()
            room = self._settings.in_flight - len(pipeline)
            if room <= 0:
                self._progress.clear()
                await self._progress.wait()
                continue
            events = await outbox.next(min(room, _READ))
            for event in events:
                if event.type == "events.dropped":
                    self.dropped += event.data["count"]
                    _log.error("events %(first)d to %(last)d were let go before they could be published", event.data)
                for voice in self._voices:
                    try:
                        for message in voice.messages(event):
                            pipeline.publish(event.seq, message)
                    except Exception:
                        self._leave_out(voice, event, pipeline)
                self._handed = event.seq
            self._note(pipeline, 0)  # nothing may have become of them
            await pipeline.flush()
            now = asyncio.get_running_loop().time()
            for told, count in outbox.told_until(self._handed):
                self.delay.add(now - told, count)
            await asyncio.sleep(0)  # the loop belongs to others too

    def _leave_out(self, voice: Voice, event: Event, pipeline: Pipeline) -> None:
        """Of an event that a voice failed at tell no more than that it is missing, while its failure is handled."""
        first = not self.unmade[event.type]
        _log.error("event %d (%s) cannot be published by %s", event.seq, event.type, type(voice).__name__, exc_info=first)
        self.unmade[event.type] += 1
        for message in voice.messages(dropped(event.seq, event.seq)):
            pipeline.publish(event.seq, message)

    def _came_back(self) -> None:
        self.unroutable += 1

    def _note(self, pipeline: Pipeline, count: int) -> None:
        """Take note of how far the broker has confirmed, and of how many messages more."""
        self.published += count
        oldest = pipeline.oldest
        self._confirmed = self._handed if oldest is None else oldest - 1
        if oldest is None:
            self._calm.set()
        self._progress.set()

    async def _save(self) -> None:
        """Write down how far it is, now and then."""
        while True:
            await asyncio.sleep(_SAVE)
            try:
                await self._place.move(self._confirmed)
            except MetaldError as error:
                _log.warning("the place in the events cannot be written: %s; trying again", error)
                await asyncio.sleep(1.0)


async def _failed(refused: asyncio.Future[None]) -> None:
    """Raise what the broker refused a message with."""
    await refused


async def _together(*jobs: Any) -> None:
    """Run jobs that never end until one fails; its error, not a group of them."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class CloudEventVoice(Voice):
    """Every event as a CloudEvent on the topic exchange.

    Args:
        settings: exchange.
        encode: the body of an event.
        key: its routing key.
    """

    def __init__(self, settings: Amqp, encode: Callable[[Event], bytes], key: Callable[[Event], str], content_type: str) -> None:
        self._settings = settings
        self._encode = encode
        self._key = key
        self._content_type = content_type

    async def declare(self, channel: Any) -> None:
        """See Voice."""
        await topology.topic(channel, self._settings, self._settings.exchange)

    def messages(self, event: Event) -> Iterable[Message]:
        """See Voice."""
        properties = properties_of(self._content_type, str(event.seq), event.time.timestamp(), event.type)
        return (Message(self._settings.exchange, self._key(event), self._encode(event), properties),)


_FIRST = struct.Struct(">H")
_STAMP = struct.Struct(">Q")
_FLAGS = 1 << 15 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3
"""content-type, delivery-mode, message-id, timestamp, type, app-id (AMQP 0-9-1, 4.2.6.1)."""
_PERSISTENT = b"\x02"


def properties_of(content_type: str, message_id: str, timestamp: float, kind: str) -> bytes:
    """The properties of an event's message, as pamqp would write them.

    Args:
        timestamp: seconds since 1970.
        kind: the event's type.
    """
    number = message_id.encode()
    return _before(content_type) + bytes((len(number),)) + number + _after(int(timestamp), kind)


@lru_cache(maxsize=16)
def _before(content_type: str) -> bytes:
    return _FIRST.pack(_FLAGS) + _short(content_type) + _PERSISTENT


@lru_cache(maxsize=512)
def _after(second: int, kind: str) -> bytes:
    return _STAMP.pack(second) + _short(kind) + _short("metald")


def _short(text: str) -> bytes:
    value = text.encode()
    return bytes((len(value),)) + value
