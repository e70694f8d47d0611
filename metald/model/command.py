"""Command: what a message asked for, from when it became durable until its answer may be forgotten."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from metald.model.caller import Caller
from metald.model.resource import Resource

Address = tuple[str, str | None]
"""Where a reply goes: `reply_to`, and the correlation id."""


class CommandState(StrEnum):
    """How far a command is."""

    PENDING = "pending"
    """It is durable, and acknowledged to the broker; it has had no effect yet."""
    ANSWERED = "answered"
    """Its effect and its outcome are durable; the reply is not known to have left."""
    SETTLED = "settled"
    """Nothing more will happen. It is kept so that the same command again gets the same answer."""


class Command(Resource, frozen=True, kw_only=True):
    """A command. Its UUID is made of the sender and the sender's id for it, so the same command has the same UUID."""

    verb: str
    """Such as `node.deploy`."""
    arguments: dict[str, Any] = {}
    """Empty once it is done: they may hold secrets."""
    sender_id: str
    """The id that the sender gave."""
    digest: str
    """Of verb and arguments: tells the same command from another one under the same id."""
    caller: Caller
    state: CommandState = CommandState.PENDING
    not_before: datetime | None = None
    expires_at: datetime | None = None
    received_at: datetime
    urgent: bool = False
    reply_to: str | None = None
    correlation_id: str | None = None
    also: tuple[Address, ...] = ()
    """Where else the reply goes: the same command came again, from elsewhere, before it was done."""
    outcome: dict[str, Any] = {}
    """The body of the reply."""
    parent: str | None = None
    """UUID of the command of many of which this is one."""
    place: int = 0
    """Which of them."""
    parts: int = 0
    """How many commands this one is made of; 0 when it is a single one."""
    ended_at: datetime | None = None

    @property
    def unfinished(self) -> str | None:
        """Its UUID as long as something may still happen to it: what is settled may leave memory, and is looked up in the database."""
        return None if self.state is CommandState.SETTLED and self.parent is None else self.uuid

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where replies go."""
        return ((self.reply_to, self.correlation_id), *self.also) if self.reply_to else self.also
