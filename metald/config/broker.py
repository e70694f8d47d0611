"""Settings of the message broker: events out, commands in."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from metald.config.base import Positive, Seconds, Section


class Commands(Section, frozen=True):
    """Commands that come by messages."""

    enabled: Annotated[bool, Meta(description="Take commands.")] = True
    exchange: Annotated[
        str,
        Meta(min_length=1, description="The topic exchange of commands, and the queue; `.urgent` and `.dead` are added for the others."),
    ] = "metald.commands"
    users: Annotated[
        str, Meta(description="TOML file with the roles and the project of each user of the broker. Empty: whoever may publish may do all.")
    ] = ""
    keys: Annotated[
        str, Meta(description="TOML file of the keys that sign who sends a command (header `metald-claim`). Empty: no claims.")
    ] = ""
    max_size: Annotated[Positive, Meta(description="Largest command in bytes (config drives).")] = 4 << 20
    patience: Annotated[Seconds, Meta(description="Seconds that a command waits for a busy node before it is refused.")] = 3600.0
    pending: Annotated[Positive, Meta(description="Most commands and answers that wait in metald; others wait in the broker.")] = 20_000
    pending_per_node: Annotated[
        Positive,
        Meta(description="Most commands that wait for one node that is busy or silent; further ones, but for `node.abort`, are refused."),
    ] = 1000
    delivery_limit: Annotated[Positive, Meta(description="How often the broker delivers a message before it puts it aside.")] = 20
    answers: Annotated[Positive, Meta(description="How many of the last answers are kept in memory; the database has them all.")] = 50_000
    answers_hours: Annotated[Positive, Meta(description="Hours for which the same command again gets its first answer, and no effect.")] = (
        24
    )


class Amqp(Section, frozen=True):
    """The message broker, for commands in and events out."""

    url: Annotated[
        str,
        Meta(description="`amqp://user:password@host/vhost`, or `amqps://` for TLS. Empty: no broker."),
    ] = ""
    tls_ca: Annotated[str, Meta(description="PEM file of the authorities that sign the broker's certificate; by default the system's.")] = (
        ""
    )
    tls_certificate: Annotated[str, Meta(description="PEM file with metald's own certificate, if the broker wants one.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with that certificate's private key.")] = ""
    heartbeat: Annotated[Positive, Meta(description="Seconds between heartbeats; a broker that is silent for three of them is gone.")] = 20
    timeout: Annotated[float, Meta(gt=0, description="Seconds that a connection, or one request on it, may take.")] = 10.0
    retry_delay: Annotated[
        float, Meta(gt=0, description="Seconds before the second try to connect; doubles with each up to 5, with jitter.")
    ] = 0.5
    declare: Annotated[
        bool, Meta(description="Make the exchanges and queues; `false` only looks that they are there, for brokers that others set up.")
    ] = True
    publish: Annotated[bool, Meta(description="Publish every event.")] = True
    exchange: Annotated[str, Meta(min_length=1, description="The topic exchange of the events.")] = "metald.events"
    in_flight: Annotated[Positive, Meta(description="Most messages on their way that the broker has not confirmed yet.")] = 2048
    unpublished_retention_days: Annotated[
        Positive,
        Meta(description="Days that events wait for the broker, if more than `store.event_retention_days`; then they are dropped."),
    ] = 90
    notifications: Annotated[bool, Meta(description="Also send Ironic's own versioned notifications.")] = False
    notification_exchange: Annotated[str, Meta(min_length=1, description="The topic exchange of the notifications.")] = "ironic"
    notification_durable: Annotated[
        bool, Meta(description="Make that exchange and the queues of the topics durable (oslo.messaging's `amqp_durable_queues`).")
    ] = False
    notification_topics: Annotated[list[str], Meta(description="Topics, which are queues, of the notifications.")] = msgspec.field(
        default_factory=lambda: ["ironic_versioned_notifications"]
    )
    prefetch: Annotated[Positive, Meta(description="Most commands that the broker hands over before they are acknowledged.")] = 200
    commands: Commands = Commands()


class Events(Section, frozen=True):
    """What happened, as it is told to others."""

    source: Annotated[str, Meta(min_length=1, description="What names this installation in events; give each database another one.")] = (
        "/metald"
    )
