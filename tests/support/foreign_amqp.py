"""Programs of others at the broker, written with pika and with kombu as their manuals say: produce commands, read the answers and events.

    python -m tests.support.foreign_amqp pika|kombu URL COUNT

Consumes all events from a queue of its own, then publishes COUNT commands `node.create` and waits for as many answers, as CloudEvents
in binary mode: one without `message_id`, with `ce-` headers, for every plain one. Writes one JSON object: `answers` by their command
and `events` in the order in which they came, until there is one of each node.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

PATIENCE = 120.0
COMMANDS, EVENTS = "metald.commands", "metald.events"


def headers(number: int) -> dict[str, str]:
    """The headers of a command: every other one is a CloudEvent."""
    if number % 2:
        return {}
    return {"ce-specversion": "1.0", "ce-id": f"c{number}", "ce-source": "/foreign", "ce-type": "metald.command.node.create"}


def body(number: int) -> bytes:
    """What a command says."""
    return json.dumps({"driver": "fake-hardware", "name": f"n{number}"}).encode()


class Heard:
    """What came."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.answers: dict[str, Any] = {}
        self.events: list[str] = []

    def answer(self, text: bytes) -> None:
        """An answer."""
        found = json.loads(text)
        self.answers[found["command"]] = found

    def event(self, text: bytes) -> None:
        """An event."""
        self.events.append(json.loads(text)["type"])

    @property
    def is_all(self) -> bool:
        """Whether everything has come."""
        return len(self.answers) == self._count and self.events.count("node.create") >= self._count


def by_pika(url: str, count: int) -> Heard:
    """With pika's blocking connection, confirms and direct reply-to."""
    import pika

    heard = Heard(count)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EVENTS, "topic", durable=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EVENTS, "#")
        channel.basic_consume(queue, lambda _c, _m, _p, text: heard.event(text), auto_ack=True)
        channel.basic_consume("amq.rabbitmq.reply-to", lambda _c, _m, _p, text: heard.answer(text), auto_ack=True)
        channel.confirm_delivery()
        for number in range(count):
            said = headers(number)
            properties = pika.BasicProperties(
                content_type="application/json", delivery_mode=2, reply_to="amq.rabbitmq.reply-to", headers=said,
                **({} if said else {"message_id": f"c{number}"}),
            )  # fmt: skip
            channel.basic_publish(COMMANDS, "node.create", body(number), properties, mandatory=True)
        end = time.monotonic() + PATIENCE
        while not heard.is_all and time.monotonic() < end:
            connection.process_data_events(time_limit=1)
    return heard


def by_kombu(url: str, count: int) -> Heard:
    """With kombu's producer and consumers, and a queue for the answers."""
    from kombu import Connection, Exchange, Queue

    heard = Heard(count)
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        events = Queue("", Exchange(EVENTS, type="topic", durable=True), routing_key="#", exclusive=True)
        answers = Queue(f"answers-{count}", exclusive=True)
        with (
            connection.Consumer([events], on_message=lambda found: heard.event(found.body), no_ack=True, accept=["json"], channel=channel),
            connection.Consumer([answers], on_message=lambda found: heard.answer(found.body), no_ack=True, accept=["json"]),
        ):
            producer = connection.Producer()
            for number in range(count):
                said = headers(number)
                producer.publish(
                    body(number), exchange=COMMANDS, routing_key="node.create", content_type="application/json",
                    content_encoding="utf-8", headers=said, reply_to=answers.name, delivery_mode=2, retry=True,
                    **({} if said else {"message_id": f"c{number}"}),
                )  # fmt: skip
            end = time.monotonic() + PATIENCE
            while not heard.is_all and time.monotonic() < end:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    continue
    return heard


if __name__ == "__main__":
    found = {"pika": by_pika, "kombu": by_kombu}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"answers": found.answers, "events": found.events}))
