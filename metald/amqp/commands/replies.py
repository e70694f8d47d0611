"""Replies: tells the senders of a command what became of it, and the dead-letter exchange of what could not be one.

Rules: a reply leaves after its outcome is durable, and is sent again by the next connection until the broker has
confirmed it; replies that find no room here wait in the ledger. It goes to `reply_to` by the default exchange (which
includes RabbitMQ's direct reply-to). A reply that its queue does not take waits in that queue's own line, which holds up nobody
else, and is given up after a few tries; so is, at once, one that cannot be written, whose queue is gone, or that the broker
does not let metald send. What is given up is counted and logged, its command is settled, and the sender gets it by sending
the command again. Its form is a CloudEvent in binary mode: the body is plain JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable

import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, DeliveryError

from metald.amqp.commands.deadletters import DeadLetters
from metald.amqp.commands.door import Api
from metald.amqp.commands.ledger import Ledger, denied
from metald.amqp.commands.post import UNSENDABLE, Debt, Letter, Post
from metald.amqp.link import Link
from metald.config import Amqp
from metald.errors import MetaldError
from metald.model import now
from metald.model.command import Address, Command, CommandState

_TRIES = 5
"""How often a reply is sent to a queue that does not take it."""
_FIRST_PAUSE = 0.25
"""Seconds before the second try; doubles with each."""
_LONGEST_PAUSE = 4.0
_MOST_PATIENT = 2000
"""Letters in the lines of queues that take none; further ones are tried once."""
_FORBIDDEN = 10.0
"""Seconds for which nothing is tried, after the broker has said that metald may not send replies."""
_DIRECT = "amq.rabbitmq.reply-to."
"""What the addresses of RabbitMQ's direct reply-to begin with: they are no queues, and always come back as unroutable."""


def envelope(command: Command, correlation_id: str | None, source: str) -> Message:
    """The message that tells of an outcome."""
    body = {"command": command.sender_id, "verb": command.verb, **command.outcome}
    headers = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": f"{command.uuid}.reply",
        "cloudEvents:source": source,
        "cloudEvents:type": f"metald.reply.{str(command.outcome['status']).replace(' ', '-')}",
        "cloudEvents:subject": command.sender_id,
        "cloudEvents:time": (command.ended_at or now()).isoformat(),
    }
    return Message(
        orjson.dumps(body),
        content_type="application/json",
        message_id=f"{command.uuid}.reply",
        correlation_id=correlation_id or command.sender_id,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=headers,  # type: ignore[arg-type]  # texts are fields
    )


class Replies(Post):
    """Replies on their way, and what goes with them.

    Args:
        link: the connection.
        ledger: knows the outcomes.
        api: words refusals.
        source: what names this installation in CloudEvents.
        settings: names.
    """

    def __init__(self, link: Link, ledger: Ledger, api: Api, source: str, settings: Amqp) -> None:
        super().__init__(link, self._remember)
        self._ledger = ledger
        self._api = api
        self._source = source
        self.dead = DeadLetters(link, self._remember, settings, ledger.losses)
        self._owing: dict[str, Debt] = {}
        """Commands whose letters wait here, or are with the broker."""
        self._lines: dict[str, deque[Letter]] = {}
        """What waits for each queue that did not take a letter."""
        self._patient = 0
        self._insist: Callable[[str], object] | None = None
        """Serves a line, while there is a channel."""
        self._forbidden_until = 0.0
        self.sent = 0
        """Replies that a queue has."""

    def told(self, command: Command) -> None:
        """A command is done: tell everybody who is to know."""
        if command.state is CommandState.ANSWERED:
            self._owe(command)
            return
        if command.parent is None:
            self._ledger.keep(command.uuid)
        if denied(command):
            self.dead.put(Letter(_put_aside(command), command.verb))

    async def again(self, command: Command, address: Address) -> None:
        """Tell this address too what became of a command that has ended; returns when that is certain, or it cannot be told."""
        if command.state is CommandState.ANSWERED and address in command.addresses:
            debt = self._owing.get(command.uuid)
            if debt is None or address in debt.owed:
                return  # it is told anyway, and the ledger knows
        await self.deliver(envelope(command, address[1], self._source), address[0])

    async def deliver(self, message: Message, key: str, *, dead: bool = False) -> None:
        """Send a message, and wait until the broker has confirmed it, however long that takes.

        A dead letter has reached a queue then. A reply whose queue did not take it is not waited for: it is tried again.

        Raises:
            UNSENDABLE: a dead letter cannot be written.
            AMQPError: a dead letter is not what the broker takes.
        """
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self.dead if dead else self).put(Letter(message, key, waiter=over))
        await over

    def refusal(self, sender_id: str, verb: str, error: MetaldError, correlation_id: str | None) -> Message:
        """What is replied to a message that is no command, as well as can be."""
        body = {
            "command": sender_id,
            "verb": verb,
            "status": "refused",
            "code": error.status,
            "error": orjson.loads(self._api.problem(error)),
        }
        told = orjson.dumps(body)
        # the same refusal has the same id; that of a command that is done later has another one
        name = f"{hashlib.sha256(told).hexdigest()[:32]}.refusal"
        headers = {
            "cloudEvents:specversion": "1.0",
            "cloudEvents:id": name,
            "cloudEvents:source": self._source,
            "cloudEvents:type": "metald.reply.refused",
            "cloudEvents:subject": sender_id,
            "cloudEvents:time": now().isoformat(),
        }
        return Message(
            told,
            content_type="application/json",
            message_id=name,
            correlation_id=correlation_id or sender_id,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={key: value for key, value in headers.items() if value},
        )

    def _owe(self, command: Command) -> None:
        """Send what a command's answer is made of: replies to who asked, a dead letter if its sender may not do that."""
        if command.uuid in self._owing:
            return
        put_aside = denied(command)
        for post in (self, self.dead) if put_aside else (self,):
            if post.is_full:
                post.lacking = True
                return
        owed: set[Address | None] = {*command.addresses, *((None,) if put_aside else ())}
        debt = self._owing[command.uuid] = Debt(lambda: self._settle(command.uuid), owed)
        if put_aside:
            self.dead.put(Letter(_put_aside(command), command.verb, debt))
        for to, correlation_id in command.addresses:
            self.put(Letter(envelope(command, correlation_id, self._source), to, debt, (to, correlation_id)))

    async def _settle(self, uuid: str) -> None:
        try:
            await self._ledger.settle(uuid)
        finally:
            self._owing.pop(uuid, None)

    def _remember(self) -> None:
        """Take what the ledger has to send."""
        for command in self._ledger.answered():
            self._owe(command)

    async def prepare(self, _channel: AbstractChannel) -> str:
        """See Post."""
        self._insist = None
        self._remember()
        return ""

    def resume(self, exchange: str, group: asyncio.TaskGroup) -> None:
        """See Post."""
        self._insist = lambda key: group.create_task(self._serve_line(exchange, key), name=f"replies to {key}")
        for key in self._lines:
            self._insist(key)

    async def carry(self, exchange: str, letter: Letter) -> None:
        """See Post."""
        if letter.key not in self._lines and await self._trouble(exchange, letter) is None:
            return
        if self._patient >= _MOST_PATIENT:
            await self._give_up(letter, "refused", "its queue takes none, and there are too many such letters")
            return
        self.taken(letter)
        letter.release()
        self._patient += 1
        if letter.key in self._lines:
            self._lines[letter.key].append(letter)
            return
        self._lines[letter.key] = deque([letter])
        if self._insist is not None:
            self._insist(letter.key)

    async def _trouble(self, exchange: str, letter: Letter) -> Exception | None:
        """Send a letter once. Why its queue does not take it; None when it is over."""
        if asyncio.get_running_loop().time() < self._forbidden_until:
            await self._give_up(letter, "forbidden", "the broker does not let metald send replies")
            return None
        is_direct = letter.key.startswith(_DIRECT)
        try:
            routed = await self.publish(exchange, letter, mandatory=not is_direct)
        except UNSENDABLE as error:
            await self.blame(letter, error)
        except (DeliveryError, TimeoutError) as error:
            return error
        else:
            self.sent += routed
            await (letter.over() if routed else self._give_up(letter, "gone", "there is no such queue"))
        return None

    async def _serve_line(self, exchange: str, key: str) -> None:
        """Send the letters to a queue that did not take one, one after the other. When one was in vain, the next are tried only once."""
        line, tries = self._lines[key], _TRIES
        while line:
            letter = line.popleft()
            self._patient -= 1
            self.begin(letter)
            tries = _TRIES if await self._persuade(exchange, letter, tries) else 1
        del self._lines[key]

    async def _persuade(self, exchange: str, letter: Letter, tries: int) -> bool:
        """Send a letter until its queue takes it. Returns whether it does."""
        pause, before = _FIRST_PAUSE, self.confirmed
        while True:
            error = await self._trouble(exchange, letter)
            if error is None:
                return True
            self.begin(letter)
            # a broker that has confirmed nothing to anybody says nothing about this queue
            tries -= not (isinstance(error, TimeoutError) and self.confirmed == before)
            before = self.confirmed
            if tries <= 0:
                await self._give_up(letter, "refused", f"its queue does not take it: {str(error) or type(error).__name__}")
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def explain(self, reason: ChannelClosed, sent: list[Letter]) -> bool:
        """See Post. By this channel nothing is done but publishing to the default exchange, so nothing else can be forbidden."""
        if not isinstance(reason, ChannelAccessRefused):
            return await super().explain(reason, sent)
        self._forbidden_until = asyncio.get_running_loop().time() + _FORBIDDEN
        why = f"the broker does not let metald send replies ({reason}): give its user the permission to write to amq.default"
        for letter in sent:
            await self._give_up(letter, "forbidden", why)
        return bool(sent)

    async def blame(self, letter: Letter, error: Exception) -> None:
        """See Post."""
        await self._give_up(letter, "unsendable", f"it cannot be sent: {error!r}")

    async def _give_up(self, letter: Letter, reason: str, why: str) -> None:
        self.taken(letter)
        about = letter.message.correlation_id
        self._ledger.losses.add(reason, f"the reply {about!r} to {letter.key!r} is lost: {why}. The same command again gets it")
        await letter.over()


def _put_aside(command: Command) -> Message:
    """The dead letter of a command whose sender may send, but not this."""
    error = command.outcome["error"]
    headers = {
        "metald-code": error["metald"]["code"],
        "metald-reason": orjson.loads(error["error_message"])["faultstring"],
        "cloudEvents:id": command.sender_id,
    }
    return Message(
        orjson.dumps(command.arguments),
        content_type="application/json",
        message_id=command.sender_id,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=headers,
    )
