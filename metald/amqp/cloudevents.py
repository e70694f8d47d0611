"""Events as CloudEvents 1.0 in structured mode, and the routing keys they are published with.

`id` is the number in the sequence, so that `source` and `id` name an event for ever and a consumer that keeps the last
one knows what it has seen. `sequence` is the same number with leading zeros, which sorts as text (CloudEvents' Sequence
extension). Secrets are masked: `Event.shown`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from metald.model import Event

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


class CloudEvent(msgspec.Struct, frozen=True, gc=False):
    """An event's message."""

    id: str
    source: str
    type: str
    time: datetime
    sequence: str
    severity: str
    """`INFO`, `WARNING` or `ERROR`."""
    data: msgspec.Raw
    subject: str | UnsetType = UNSET
    """The node's UUID, or that of the thing the event is about when no node is concerned."""
    object: str | UnsetType = UNSET
    """The thing's UUID where a node is concerned too."""
    user: str | UnsetType = UNSET
    """Who asked, when somebody did."""
    specversion: str = "1.0"
    datacontenttype: str = "application/json"


_JSON = msgspec.json.Encoder()


def encode(event: Event, source: str) -> bytes:
    """An event as a CloudEvent, in JSON."""
    number, node, about = str(event.seq), event.node_uuid, event.subject or UNSET
    found = CloudEvent(  # by position: names would cost a third more, for every event
        number,
        source,
        event.type,
        event.time,
        number.zfill(20),
        event.severity,
        msgspec.Raw(event.shown),
        about if node is None else node,
        UNSET if node is None else about,
        event.user or UNSET,
    )
    return _JSON.encode(found)


def routing_key(event: Event) -> str:
    """`node.<uuid>.<what>` for all that concerns a node, `<resource>.<uuid>.<what>` for the rest; `-` where there is no UUID.

    A node's own events leave out the word `node`: `node.<uuid>.provision`, but `node.<uuid>.port.create`.
    """
    if event.node_uuid is not None:
        return f"node.{event.node_uuid}.{event.type.removeprefix('node.')}"
    resource, _, what = event.type.partition(".")
    return f"{resource}.{event.subject or '-'}.{what}"
