"""Events as watchers read them: the JSON of one event, and its frame in a stream of Server-Sent Events.

Rules: an event is encoded once, however many watchers get it, and only if one does. Secrets are masked: `Event.shown`. The
`id` of a frame is the event's sequence number, which is what a watcher resumes from. What many watchers get at once is one
`Block`, which they share plain and packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import msgspec
import orjson

from metald.http.watch.coding import Block
from metald.model import Event


def document(event: Event) -> dict[str, Any]:
    """An event as the API shows it, in histories and streams alike; for orjson."""
    return {
        "type": event.type,
        "node_uuid": event.node_uuid,
        "subject": event.subject,
        "data": orjson.Fragment(event.shown),
        "severity": event.severity,
        "user": event.user,
        "time": event.time,
        "id": event.id,
        "seq": event.seq,
    }


def sse(kind: str, data: bytes, seq: int | None = None) -> bytes:
    """One frame of a stream of Server-Sent Events. JSON has no line breaks, so that one `data` line is enough."""
    place = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: %s\ndata: %s\n\n" % (place, kind.encode(), data)


@lru_cache(maxsize=16)
def beat(seq: int) -> Block:
    """A heartbeat; who has been told of everything up to `seq` gets the same. Without data it is no event to an EventSource, but
    moves the place from which it resumes.
    """
    return Block(b": heartbeat\nid: %d\n\n" % seq)


class Frame(msgspec.Struct, gc=False):
    """One event, encoded when somebody first needs it."""

    event: Event
    _json: bytes | None = None
    _sse: bytes | None = None

    @property
    def json(self) -> bytes:
        """The event as JSON."""
        if self._json is None:
            self._json = orjson.dumps(document(self.event))
        return self._json

    @property
    def sse(self) -> bytes:
        """The event as a frame of a stream."""
        if self._sse is None:
            self._sse = sse(self.event.type, self.json, self.event.seq)
        return self._sse


class Chunk:
    """Frames that go to the same watchers at the same time; joined once for all of them."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self.last_seq = frames[-1].event.seq

    @cached_property
    def sse(self) -> Block:
        """All frames, one after the other."""
        return Block(b"".join([frame.sse for frame in self.frames]))

    @property
    def size(self) -> int:
        """Bytes that it takes in a stream that is not packed."""
        return len(self.sse.plain)

    def after(self, seq: int) -> Chunk | None:
        """What of it is newer than `seq`."""
        if self.frames[0].event.seq > seq:
            return self
        newer = [frame for frame in self.frames if frame.event.seq > seq]
        return Chunk(newer) if newer else None
