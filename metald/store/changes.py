"""What a caller asks the store to make durable: one Change, all of it or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from metald.model import Event, Resource, StepRecord


@dataclass(slots=True)
class Change:
    """One transaction's worth: rows to write and delete, journal lines, and the events that tell of it.

    `save` holds resources as they shall be. One whose `version` is 0 is inserted; any other replaces the row that
    still has that `version` (StaleVersion otherwise). The saved copies come back with `version` one higher.
    """

    save: list[Resource] = field(default_factory=list)
    delete: list[Resource] = field(default_factory=list)
    journal: list[StepRecord] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a Change became: the saved resources in the order given, and its events with their sequence numbers."""

    saved: list[Resource]
    events: list[Event]
