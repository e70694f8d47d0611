"""Holds every event that any test makes metald emit to the registry of event types."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from metald.model import Event
from metald.model.eventtypes import EVENT_TYPES
from metald.store import batch

_OWN_EVENTS = (
    "tests/store/",
    "tests/http/test_http_watch",
    "tests/amqp/test_amqp_publisher",
    "tests/amqp/test_amqp_unmade",
    "tests/fleet/test_fleet_nodes",
)
"""Tests that emit events of their own making."""


def fault_of(event: Event) -> str | None:
    """What is wrong with an event, if anything."""
    known = EVENT_TYPES.get(event.type)
    if known is None:
        return f"the event type {event.type!r} is not in metald/model/eventtypes.py: register it"
    try:
        msgspec.json.decode(msgspec.json.encode(event.data), type=known.payload)
    except msgspec.ValidationError as error:
        return f"the event {event.type!r} is not as metald/model/eventtypes.py says: {error}: {event.data}"
    return None if event.node_uuid is not None or not known.of_node else f"the event {event.type!r} names no node"


def watched_events() -> Iterator[list[str]]:
    """Body of a session fixture: every event on its way to a store is looked at; what was wrong is in the list."""
    encode = batch._event
    faults: list[str] = []

    def checked(event: Event) -> bytes:
        if not os.environ.get("PYTEST_CURRENT_TEST", "").startswith(_OWN_EVENTS):
            fault = fault_of(event)
            if fault is not None:
                faults.append(fault)
        return encode(event)

    batch._event = checked
    try:
        yield faults
    finally:
        batch._event = encode
