"""Dead letters: what cannot be a command, on its way to an exchange and a queue that are made before anything goes there.

Rules: a dead letter must reach a queue. One that comes back, as its queue or the binding was removed, goes again after both were made
again, however often and however long that takes; meanwhile the message that it is about stays with the broker unacknowledged, or
its command in the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aio_pika.abc import AbstractChannel, AbstractExchange
from aiormq.exceptions import AMQPError, DeliveryError

from metald.amqp import topology
from metald.amqp.commands.losses import Losses
from metald.amqp.commands.post import UNSENDABLE, Letter, Post
from metald.amqp.link import Link
from metald.config import Amqp
from metald.store.locks import KeyedLocks


class Unroutable(AMQPError):
    """No queue has taken a dead letter."""

    def __init__(self, settings: Amqp, why: str) -> None:
        place = name(settings)
        super().__init__(f"{why}. Dead letters wait until queue {place} is bound to exchange {place} with '#' and takes them")


def name(settings: Amqp) -> str:
    """What the exchange and the queue are called."""
    return f"{settings.commands.exchange}.dead"


async def declare(channel: AbstractChannel, settings: Amqp) -> AbstractExchange:
    """The dead-letter exchange, with the queue that keeps everything.

    Raises:
        AMQPError: it is missing and may not be made, or it is there with other properties.
        TimeoutError: the broker does not answer.
    """
    exchange = await topology.topic(channel, settings, name(settings))
    queue = await topology.queue(channel, settings, name(settings), arguments={"x-queue-type": "quorum"})
    await topology.bind(queue, settings, exchange, "#")
    return exchange


class DeadLetters(Post):
    """Dead letters on their way.

    Args:
        link: the connection.
        refill: see Post.
        settings: names.
        losses: counts what cannot be sent at all.
    """

    def __init__(self, link: Link, refill: Callable[[], None], settings: Amqp, losses: Losses) -> None:
        super().__init__(link, refill)
        self._settings = settings
        self._losses = losses
        self._same = KeyedLocks()
        self._failure: Exception | None = None
        """Why nothing more is sent by this channel."""

    async def prepare(self, channel: AbstractChannel) -> str:
        """See Post."""
        self._failure = None
        return (await declare(channel, self._settings)).name

    def resume(self, exchange: str, group: asyncio.TaskGroup) -> None:
        """See Post: nothing waits beside."""

    async def carry(self, exchange: str, letter: Letter) -> None:
        """See Post."""
        # what comes back is known by nothing but its id, which is the sender's own
        async with self._same.holding(letter.message.message_id or ""):
            if self._failure is not None:
                await _for_ever()
            error = await self._send(exchange, letter)
            if error is not None:
                self.begin(letter)
                self._failure = error
        # the channel ends when nothing is on its way by it: the client library logs what comes back to nobody, secrets and all
        if self._failure is not None and not any(other.sent for other in self._on_their_way):
            raise self._failure
        if error is not None:
            await _for_ever()

    async def _send(self, exchange: str, letter: Letter) -> Exception | None:
        """Send a letter once. Why no queue has it; None when it is over."""
        try:
            if not await self.publish(exchange, letter, mandatory=True):
                return Unroutable(self._settings, "no queue has taken a dead letter")
        except UNSENDABLE as error:
            await self.blame(letter, error)
            return None
        except DeliveryError:
            return Unroutable(self._settings, "the broker has refused a dead letter")
        except TimeoutError as error:
            return error
        await letter.over()
        return None

    async def blame(self, letter: Letter, error: Exception) -> None:
        """See Post. The message that it is about comes back, and is counted each time, until the broker itself puts it aside."""
        self._losses.add("unsendable", f"a dead letter (id {letter.message.message_id!r}) cannot be sent: {error!r}")
        letter.release(error)
        await letter.over()


async def _for_ever() -> None:
    """Until cancelled."""
    await asyncio.Event().wait()
