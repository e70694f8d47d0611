"""Programs of others at the broker, written with kombu as an OpenStack shop would: a producer of commands, and a consumer of all events.

    python -m benchmarks.parts.foreign produce URL FIRST LAST SECONDS
    python -m benchmarks.parts.foreign consume URL FILE

The producer publishes `node.deploy` for bench-FIRST to bench-LAST, spread over so many seconds, each until the broker has confirmed it.
The consumer writes a line for each event that it gets, before it acknowledges it: number, routing key, SHA-1 of the body; and
says `ready` when its queue is bound. Both come back when the broker does.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kombu import Connection, Exchange, Queue
from kombu.mixins import ConsumerMixin

_FOREVER = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 1.0}
EVENTS = Queue(
    "everything", Exchange("metald.events", type="topic", durable=True), routing_key="#", durable=True,
    queue_arguments={"x-queue-type": "quorum"},
)  # fmt: skip


def produce(url: str, first: int, last: int, seconds: float) -> None:
    """Publish the commands."""
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        began = time.monotonic()
        for count, number in enumerate(range(first, last + 1)):
            time.sleep(max(0.0, began + count * seconds / (last - first + 1) - time.monotonic()))
            producer.publish(
                {"node": f"bench-{number}"},
                exchange="metald.commands",
                routing_key="node.deploy",
                message_id=f"deploy-{number}",
                delivery_mode=2,
                retry=True,
                retry_policy=_FOREVER,
            )


class Consumer(ConsumerMixin):  # type: ignore[misc]  # untyped
    """Reads everything, until it is told to stop.

    Args:
        connection: to the broker.
        lines: where what it got goes.
    """

    def __init__(self, connection: Any, lines: Any) -> None:
        self.connection = connection
        self._lines = lines

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:  # noqa: ARG002
        """See ConsumerMixin."""
        found = consumer(queues=[EVENTS], on_message=self._take, prefetch_count=200, no_ack=False)
        found.declare()
        return [found]

    def on_consume_ready(self, *_: Any, **__: Any) -> None:
        """See ConsumerMixin."""
        print("ready", flush=True)

    def _take(self, message: Any) -> None:
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        key = message.delivery_info["routing_key"]
        self._lines.write(f"{message.properties['message_id']} {key} {hashlib.sha1(body, usedforsecurity=False).hexdigest()}\n")
        self._lines.flush()
        message.ack()


def consume(url: str, path: str) -> None:
    """Read events until SIGTERM."""
    with Connection(url) as connection, Path(path).open("a", encoding="ascii") as lines:
        consumer = Consumer(connection, lines)
        signal.signal(signal.SIGTERM, lambda *_: setattr(consumer, "should_stop", True))
        consumer.run()


if __name__ == "__main__":
    if sys.argv[1] == "produce":
        produce(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        consume(sys.argv[2], sys.argv[3])
