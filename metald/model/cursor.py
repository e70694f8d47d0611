"""Cursor: how far a reader of the event sequence has come, kept across restarts."""

from __future__ import annotations

import uuid as _uuid

from metald.model.resource import Resource

_NAMES = _uuid.UUID("6d657461-6c64-4000-8000-637572736f72")


class Cursor(Resource, frozen=True):
    """One reader's place. Its UUID follows from its name, so that two daemons cannot both make it."""

    name: str = ""
    seq: int = 0
    """The number of the last event that the reader is done with."""
    owner: str | None = None
    """The conductor that reads; the others leave it alone. Each write checks `version`, so a former owner writes nothing."""

    @classmethod
    def uuid_of(cls, name: str) -> str:
        """The UUID of the cursor of this name."""
        return str(_uuid.uuid5(_NAMES, name))
