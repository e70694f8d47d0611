"""Puts aside what cannot be a command: a dead letter with the reason, an event, and an answer as well as can be.

Rules: each is certain before the message may be forgotten, however long the broker or the store is away. What is put aside is told of by
the id and the verb that its sender gave, as far as they can be read.
"""

from __future__ import annotations

import asyncio

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

from metald.amqp.commands.claims import HEADER
from metald.amqp.commands.ledger import Ledger
from metald.amqp.commands.message import Incoming, named
from metald.amqp.commands.replies import Replies
from metald.amqp.decoding import UNREADABLE, writable
from metald.errors import MetaldError, Unavailable

_PAUSE = 1.0
_REASON = 1000
_MOST_HEADERS = 1 << 16
"""Bytes of the headers that a dead letter keeps: they share a frame of 128 KiB with what is added, here and by the broker."""
_LONGEST_ID = 255


class Aside:
    """Where messages go that are no commands.

    Args:
        ledger: tells of it by an event.
        replies: has the connection that publishes.
        urgent_prefix: what routing keys of the urgent queue begin with.
    """

    def __init__(self, ledger: Ledger, replies: Replies, urgent_prefix: str) -> None:
        self._ledger = ledger
        self._replies = replies
        self._urgent_prefix = urgent_prefix

    async def put(self, message: AbstractIncomingMessage, incoming: Incoming, error: MetaldError) -> None:
        """Put a message aside for good, and say why to everybody who may want to know.

        Args:
            message: the message.
            incoming: the same, as it is read.
            error: why.
        """
        reason = str(error)[:_REASON]
        kept = {name: value for name, value in (message.headers or {}).items() if name not in (HEADER, UNREADABLE)}
        headers = {**writable(kept, _MOST_HEADERS), "metald-code": error.code, "metald-reason": reason}
        put_aside = Message(
            message.body,
            headers=headers,
            content_type=message.content_type,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await self._replies.deliver(put_aside, message.routing_key or "", dead=True)
        sender_id, verb = named(incoming, urgent_prefix=self._urgent_prefix)
        await self._tell(verb, reason, message.user_id, sender_id[:_LONGEST_ID] or None)
        if message.reply_to:
            await self._replies.deliver(self._replies.refusal(sender_id, verb, error, message.correlation_id), message.reply_to)

    async def _tell(self, verb: str, reason: str, user: str | None, sender_id: str | None) -> None:
        while True:
            try:
                await self._ledger.reject(verb, reason, user, sender_id)
                return
            except Unavailable:
                await asyncio.sleep(_PAUSE)
