"""Prints the moves of every node, from metald's events on RabbitMQ, with kombu and without asyncio. Ends with Ctrl-C; goes on where it was.

python follow_kombu.py amqp://user:password@broker/vhost
"""

import json
import sys

from kombu import Connection, Consumer, Exchange, Message, Queue
from kombu.mixins import ConsumerMixin

MOVES = Queue("follow-kombu", Exchange("metald.events", type="topic", durable=True), routing_key="node.*.provision", durable=True)


class Follower(ConsumerMixin):
    """Comes back by itself when the broker does."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seen = 0  # keep it with your own data: an event that comes twice has the same number

    def get_consumers(self, consumer: type[Consumer], channel: object) -> list[Consumer]:  # noqa: ARG002
        # kombu knows no decoder for CloudEvents, and a body that it cannot decode is an error: the body is taken as it is
        return [consumer(MOVES, on_message=self.handle, prefetch_count=100)]

    def handle(self, message: Message) -> None:
        event = json.loads(message.body)
        number = int(event["id"])
        if number > self.seen:
            self.seen = number
            print(number, event["subject"], event["data"]["from"], "->", event["data"]["to"], flush=True)  # noqa: T201
        message.ack()


if __name__ == "__main__":
    with Connection(sys.argv[1]) as connection:
        Follower(connection).run()
