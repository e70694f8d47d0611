"""Event: one thing that happened, with its place in the one growing sequence."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec

from metald.entropy import new_uuid
from metald.model.masking import is_plain, masked
from metald.model.resource import now

_JSON = msgspec.json.Encoder()


class Event(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One fact. `seq` is given by the store in commit order, without gaps; it is what watchers resume from."""

    type: str
    """Dotted name, such as `node.provision`, `node.power`, `node.boot`, `node.step`, `port.create`."""
    node_uuid: str | None = None
    subject: str | None = None
    """UUID of the thing the event is about, when it is not the node."""
    data: dict[str, Any] = {}
    severity: str = "INFO"
    """`INFO`, `WARNING` or `ERROR`."""
    user: str | None = None
    time: datetime = msgspec.field(default_factory=now)
    id: str = msgspec.field(default_factory=new_uuid)
    seq: int = 0

    @cached_property
    def shown(self) -> bytes:
        """`data` as JSON, with secrets masked: what may leave the daemon. Made once, for all who tell of the event."""
        return _JSON.encode(self.data if is_plain(self.data) else masked(self.data))


def dropped(first: int, last: int) -> Event:
    """What a reader of the sequence is told in the place of events that were let go before it could read them.

    It is not stored. Its number is that of the last event that is missing.
    """
    return Event(type="events.dropped", severity="ERROR", data={"first": first, "last": last, "count": last - first + 1}, seq=last)
