"""What the broker's part has to tell as metrics: whether it is there, what waits for it, and what came of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from metald.amqp.service import Broker
from metald.metrics import Family


def source(broker: Broker) -> Iterator[Family]:
    """Everything about the broker."""
    yield from _link(broker)
    yield from _events(broker)
    yield from _commands(broker)


def _link(broker: Broker) -> Iterator[Family]:
    links = [({"connection": "publish"}, broker.link)]
    if broker.commands is not None:
        links.append(({"connection": "consume"}, broker.commands.link))
    connected = [(which, link.connected) for which, link in links]
    yield Family("amqp_connected", "gauge", "1 while there is a connection to the broker.", connected)
    yield Family.one("amqp_blocked", "gauge", "1 while the broker has an alarm (memory, disk) and takes nothing.", broker.link.blocked)
    connects = [(which, link.connects) for which, link in links]
    yield Family("amqp_connections", "counter", "How often a connection to the broker came up.", connects)
    losses = [(which, link.losses) for which, link in links]
    yield Family("amqp_connection_losses", "counter", "How often one that was up was lost.", losses)
    failures = [(which, link.failures) for which, link in links]
    yield Family("amqp_connection_failures", "counter", "How often connecting to the broker failed.", failures)
    refusals = [(which, link.refusals) for which, link in links]
    yield Family("amqp_refusals", "counter", "How often the broker refused something else.", refusals)


def _events(broker: Broker) -> Iterator[Family]:
    publisher = broker.publisher
    if publisher is None:
        return
    yield Family.one("amqp_publishing", "gauge", "1 while this daemon publishes the events.", publisher.active)
    yield Family.one(
        "amqp_events_unpublished", "gauge", "Events that the broker has not confirmed; 0 while another daemon publishes.", publisher.waiting
    )
    yield Family.one("amqp_events_dropped", "counter", "Events that were too old before they could be published.", publisher.dropped)
    unmade = [({"type": kind}, count) for kind, count in publisher.unmade.items()]
    yield Family("amqp_events_unmade", "counter", "Events that could not be put into a message, by type; the log tells why.", unmade)
    yield Family.one("amqp_messages_published", "counter", "Messages that the broker confirmed.", publisher.published)
    yield Family.one("amqp_messages_unroutable", "counter", "Of these, messages that no queue wanted.", publisher.unroutable)
    yield Family.one(
        "amqp_event_delay_seconds", "histogram", "Seconds from an event's transaction until it has left for the broker.", publisher.delay
    )
    yield Family.one("amqp_publisher_starts", "counter", "How often publishing began after the last confirmed event.", publisher.restarts)


def _commands(broker: Broker) -> Iterator[Family]:
    commands = broker.commands
    if commands is None:
        return
    urgent, other = commands.intakes
    each: list[tuple[Mapping[str, str], float]]
    each = [({"queue": "urgent"}, urgent.ready), ({"queue": "commands"}, other.ready)]
    yield Family("amqp_commands_consuming", "gauge", "1 while the broker hands over what is in the queue.", each)
    each = [({"queue": "urgent"}, urgent.taken), ({"queue": "commands"}, other.taken)]
    yield Family("amqp_commands_taken", "counter", "Messages that were made durable, or were known.", each)
    each = [({"queue": "urgent"}, urgent.rejected), ({"queue": "commands"}, other.rejected)]
    yield Family("amqp_commands_rejected", "counter", "Messages that went to the dead-letter exchange.", each)
    yield Family.one("amqp_commands_pending", "gauge", "Commands without an effect yet, delayed ones included.", commands.ledger.pending)
    yield Family.one("amqp_commands_delayed", "gauge", "Commands that wait for their time.", commands.lanes.delayed)
    yield Family.one("amqp_replies_unsent", "gauge", "Commands whose answer has not left for certain.", commands.ledger.unsent)
    yield Family.one("amqp_replies_sent", "counter", "Answers that the broker confirmed.", commands.replies.sent)
    lost = [({"reason": reason}, count) for reason, count in commands.ledger.losses.counts.items()]
    yield Family("amqp_replies_lost", "counter", "Answers and dead letters that nobody gets.", lost)
