"""Holds every event that any test makes metald emit to the registry of event types and to the AsyncAPI document.

In a test's own process each event is looked at on its way to the store, or to what stands in for it; those of a daemon that is a process of
its own are read from its database at its end. So the whole suite is the traffic that the contract is held against, and a run of all of it
knows which types no test produces.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec

from metald.amqp.cloudevents import encode, routing_key
from metald.model import Event
from metald.model.asyncapi import addresses, document
from metald.model.eventtypes import EVENT_TYPES
from metald.store import batch
from tests.support.daemon import Daemon

WITHOUT_TRAFFIC = {
    "events.dropped": "stands for what is gone and is never stored; tests/statemachine/test_event_registry.py holds it to the document",
}
"""Types that no test sees on their way to a store, with the reason."""
WHOLE = "METALD_TEST_WHOLE"
"""Set in the environment, a run fails when there is another type that no test produced. scripts/run-tests sets it."""

_OWN_EVENTS = (
    "tests/store/",
    "tests/http/test_http_watch",
    "tests/amqp/test_amqp_publisher",
    "tests/amqp/test_amqp_unmade",
    "tests/fleet/test_fleet_nodes",
)
"""Tests that emit events of their own making."""
_DOCUMENT = document("1")


@cache
def _schema(kind: str) -> Any:
    schema = {"$ref": f"#/components/messages/{kind}/payload", "components": _DOCUMENT["components"]}
    return jsonschema_rs.validator_for({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, validate_formats=True)


def fault_of(event: Event) -> str | None:
    """What is wrong with an event, if anything."""
    known = EVENT_TYPES.get(event.type)
    if known is None:
        return f"the event type {event.type!r} is not in metald/model/eventtypes.py: register it"
    try:
        msgspec.json.decode(msgspec.json.encode(event.data), type=known.payload)
    except msgspec.ValidationError as error:
        return f"the event {event.type!r} is not as metald/model/eventtypes.py says: {error}: {event.data}"
    if event.node_uuid is None and known.of_node:
        return f"the event {event.type!r} names no node"
    body = msgspec.json.decode(encode(msgspec.structs.replace(event, seq=event.seq or 1), "/test"))
    for fault in _schema(event.type).iter_errors(body):
        return f"the event {event.type!r} is not as the AsyncAPI document says: {fault.message} at {list(fault.instance_path)}"
    key, shapes = routing_key(event), addresses(known)
    if key not in (shape.replace("{uuid}", event.node_uuid or event.subject or "-") for shape in shapes):
        return f"the event {event.type!r} is published with {key}, the AsyncAPI document says {shapes}"
    return None


_WATCHING: list[Traffic] = []


def told(event: Event) -> None:
    """For what stands in for the store in a test: an event that would go to it."""
    for traffic in _WATCHING:
        traffic.look(event)


class Traffic:
    """What was seen."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.faults: list[str] = []

    def look(self, event: Event) -> None:
        """Take note of an event."""
        fault = fault_of(event)
        if fault is not None:
            self.faults.append(fault)
        self.types.add(event.type)

    def read(self, daemon: Daemon) -> None:
        """Look at every event that a daemon on SQLite has kept. A test may have spoilt its database."""
        path = daemon.state_dir / "metald.sqlite"
        if not path.exists():
            return
        decode = msgspec.json.Decoder(Event).decode
        try:
            for (doc,) in _documents(path):
                self.look(decode(doc))
        except sqlite3.DatabaseError as error:
            print(f"the events of {path} cannot be read: {error}")

    def missing(self) -> list[str]:
        """Types that ought to have been seen."""
        return sorted(set(EVENT_TYPES) - self.types - set(WITHOUT_TRAFFIC))


def _documents(path: Path) -> Iterator[tuple[str]]:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        yield from connection.execute("SELECT doc FROM events ORDER BY seq")
    finally:
        connection.close()


def watched_events(traffic: Traffic) -> Iterator[Traffic]:
    """Body of a session fixture: everything that is told meanwhile is looked at."""
    encoded = batch._event

    def checked(event: Event) -> bytes:
        if not os.environ.get("PYTEST_CURRENT_TEST", "").startswith(_OWN_EVENTS):
            told(event)
        return encoded(event)

    batch._event = checked
    _WATCHING.append(traffic)
    Daemon.at_end.append(traffic.read)
    try:
        yield traffic
    finally:
        batch._event = encoded
        _WATCHING.remove(traffic)
        Daemon.at_end.remove(traffic.read)
