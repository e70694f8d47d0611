"""Events as CloudEvents 1.0 in structured mode, and the routing keys they are published with.

`id` is the number in the sequence, so that `source` and `id` name an event for ever and a consumer that keeps the last
one knows what it has seen. `sequence` is the same number with leading zeros, which sorts as text (CloudEvents' Sequence
extension). Secrets are masked here.
"""

from __future__ import annotations

from typing import Any

import orjson

from metald.model import Event
from metald.model.masking import masked

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


def document(event: Event, source: str) -> dict[str, Any]:
    """An event as a CloudEvent.

    `subject` is the node's UUID, or that of the thing the event is about when no node is concerned; `object` is the
    thing's UUID where a node is concerned too. `severity` is `INFO`, `WARNING` or `ERROR`; `user` who asked, when somebody did.
    """
    subject = event.node_uuid or event.subject
    found: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(event.seq),
        "source": source,
        "type": event.type,
        "time": event.time,
        "datacontenttype": "application/json",
        "sequence": f"{event.seq:020d}",
        "severity": event.severity,
        "data": masked(event.data),
    }
    if subject is not None:
        found["subject"] = subject
    if event.node_uuid is not None and event.subject is not None:
        found["object"] = event.subject
    if event.user is not None:
        found["user"] = event.user
    return found


def encode(event: Event, source: str) -> bytes:
    """The JSON of `document`."""
    return orjson.dumps(document(event, source), option=orjson.OPT_UTC_Z)


def routing_key(event: Event) -> str:
    """`node.<uuid>.<what>` for all that concerns a node, `<resource>.<uuid>.<what>` for the rest; `-` where there is no UUID.

    A node's own events leave out the word `node`: `node.<uuid>.provision`, but `node.<uuid>.port.create`.
    """
    if event.node_uuid is not None:
        return f"node.{event.node_uuid}.{event.type.removeprefix('node.')}"
    resource, _, what = event.type.partition(".")
    return f"{resource}.{event.subject or '-'}.{what}"
