"""A broker for one benchmark: a private RabbitMQ, gone with the block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.support.rabbit import PrivateRabbit, available


@contextlib.contextmanager
def broker() -> Iterator[PrivateRabbit]:
    """A broker that runs until the block ends.

    Raises:
        SystemExit: it is not installed.
    """
    if not available():
        raise SystemExit("no RabbitMQ: apt-get install rabbitmq-server")
    rabbit = PrivateRabbit()
    try:
        rabbit.start()
        yield rabbit
    finally:
        rabbit.remove()
