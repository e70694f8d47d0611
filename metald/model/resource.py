"""What every stored thing has in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from metald.entropy import new_uuid


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


class Resource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One stored thing. Frozen: a change makes a copy (`changed`), so a reader's view never shifts under it.

    Dicts and lists inside are never mutated in place either; whoever changes one replaces it. So there are no cycles, and the
    garbage collector need not look at it. What has its default is left out of the stored document (a third of the bytes), so
    whoever changes a default writes a migration too.
    """

    uuid: str = msgspec.field(default_factory=new_uuid)
    id: int = 0
    """Insertion order, given by the store; 0 until stored."""
    version: int = 0
    """Grows by one with each write, checked on write; 0 until stored."""
    created_at: datetime = msgspec.field(default_factory=now)
    updated_at: datetime | None = None

    def changed(self, **fields: Any) -> Any:
        """A copy with `fields` replaced and `updated_at` set to now."""
        return msgspec.structs.replace(self, updated_at=now(), **fields)
