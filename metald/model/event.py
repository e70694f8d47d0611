"""Event: one thing that happened, with its place in the one growing sequence, and where its node stood."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec

from metald.entropy import new_uuid
from metald.model.masking import is_plain, masked
from metald.model.node import Node
from metald.model.resource import now

_JSON = msgspec.json.Encoder()


class Standing(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What decides who is told of a node: how it stood at a moment."""

    owner: str | None = None
    lessee: str | None = None
    shard: str | None = None
    state: str | None = None
    """Its provision state."""

    @classmethod
    def of(cls, node: Node) -> Standing:
        """Of a node as it is."""
        return cls(node.owner, node.lessee, node.shard, node.provision_state)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """One fact. `seq` is given by the store in commit order, without gaps; it is what watchers resume from.

    What has its default is left out of the stored document, so whoever changes a default writes a migration too.
    """

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
    before: Standing | None = None
    """How the node stood before the change that the event tells of; None where it stands as before, or was not there. Given by the store,
    for the choice of who is told, and not shown."""
    after: Standing | None = None
    """How the node stands after the change; None where it is gone. Events of nodes that were stored without either are from before
    that was noted."""

    @cached_property
    def shown(self) -> bytes:
        """`data` as JSON, with secrets masked: what may leave the daemon. Made once, for all who tell of the event."""
        return _JSON.encode(self.data if is_plain(self.data) else masked(self.data))


def dropped(first: int, last: int) -> Event:
    """What a reader of the sequence is told in the place of events that were let go before it could read them.

    It is not stored. Its number is that of the last event that is missing.
    """
    return Event(type="events.dropped", severity="ERROR", data={"first": first, "last": last, "count": last - first + 1}, seq=last)
