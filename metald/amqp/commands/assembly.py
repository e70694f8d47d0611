"""Everything that commands need, put together once for the daemon."""

from __future__ import annotations

import asyncio
import logging

from metald.amqp.commands.callers import Callers
from metald.amqp.commands.door import Api
from metald.amqp.commands.intake import Intake
from metald.amqp.commands.lanes import Lanes
from metald.amqp.commands.ledger import Ledger
from metald.amqp.commands.replies import Replies
from metald.amqp.link import Link
from metald.config import Settings
from metald.errors import MetaldError
from metald.store.pace import Pace
from metald.store.store import Store

_log = logging.getLogger(__name__)

_FORGET = 60.0


class Commands:
    """Commands in. Attaches itself to both links, and runs the one it takes commands by; `run` does the work.

    Args:
        settings: all settings.
        store: the state.
        out: the connection that answers are published by; not running yet.
        link: the connection that commands are taken by; not running yet.
        api: what commands are asked of.

    Raises:
        ConfigError: the file of users or of keys cannot be used.
    """

    def __init__(self, settings: Settings, store: Store, out: Link, link: Link, api: Api) -> None:
        own = settings.amqp.commands
        self.ledger = Ledger(store, own)
        self.link = link
        self.replies = Replies(out, self.ledger, api, settings.events.source, settings.amqp)
        self.lanes = Lanes(store, api, self.ledger, own, self.replies)
        callers, alone = Callers(own), asyncio.Lock()
        self.intakes = tuple(
            Intake(link, settings.amqp, callers, self.ledger, self.lanes, self.replies, alone, urgent=urgent) for urgent in (True, False)
        )
        out.attach("replies", self.replies.use)
        out.attach("dead letters", self.replies.dead.use)
        for name, intake in zip(("urgent commands", "commands"), self.intakes, strict=True):
            link.attach(name, intake.use)

    async def run(self) -> None:
        """Carry out what is durable, whether the broker is there or not, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forget(), name="old answers")
            group.create_task(self.link.run(), name="commands' link")
            await self.lanes.run()

    async def _forget(self) -> None:
        pace = Pace()
        while True:
            await asyncio.sleep(_FORGET)
            if not pace.believed():
                continue
            try:
                while await self.ledger.forget():
                    pass
            except MetaldError as error:
                _log.warning("old answers could not be removed: %s", error)
