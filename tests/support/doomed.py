"""A daemon that sends itself SIGKILL at one instant of a command's life. Run as a program in place of `metald serve`.

`METALD_TEST_DOOM` names the instant, by what the change that is being committed does to a command, and on which side of the
commit it is: `before take`, `after take` (durable, not acknowledged), `before effect`, `after effect` (done, not answered), `before
settle` (answered, which is not written down), `after settle`. Without it nothing is added.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from metald import app, configfile
from metald.model.command import Command, CommandState
from metald.store.changes import Change, Committed
from metald.store.writer import StateWriter
from tests.support.daemon import Spawn, by

INSTANTS = tuple(f"{when} {what}" for what in ("take", "effect", "settle") for when in ("before", "after"))
_STATES = {CommandState.PENDING: "take", CommandState.ANSWERED: "effect", CommandState.SETTLED: "settle"}


def doomed(instant: str) -> Spawn:
    """How to start a daemon that dies at an instant."""
    return by(sys.executable, "-m", "tests.support.doomed", METALD_TEST_DOOM=instant)


def _arm(instant: str) -> None:
    when, _, what = instant.partition(" ")
    real = StateWriter.commit

    async def commit(writer: StateWriter, change: Change) -> Committed:
        done = await real(writer, change) if when == "after" else None
        states = {_STATES[row.state] for row in (done.saved if done else change.save) if isinstance(row, Command)}
        if what in states:
            os.kill(os.getpid(), signal.SIGKILL)
        return done or await real(writer, change)

    StateWriter.commit = commit  # type: ignore[method-assign]


if __name__ == "__main__":
    _arm(os.environ["METALD_TEST_DOOM"])
    sys.exit(asyncio.run(app.serve(configfile.load())))
