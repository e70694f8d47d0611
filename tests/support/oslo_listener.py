"""A consumer of Ironic's notifications as OpenStack writes them: real oslo.messaging. Prints a JSON line for each.

python -m tests.support.oslo_listener rabbit://user:password@host:port/vhost [--durable]
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import oslo_messaging
from oslo_config import cfg


class Endpoint:
    _one_line = threading.Lock()

    def info(self, _context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        self._tell("INFO", publisher_id, event_type, payload, metadata)

    def error(self, _context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        self._tell("ERROR", publisher_id, event_type, payload, metadata)

    def _tell(self, priority: str, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        line = {"priority": priority, "publisher_id": publisher_id, "event_type": event_type, "payload": payload, "metadata": metadata}
        with self._one_line:  # each target has a thread, and print writes a line and its end apart
            print(json.dumps(line), flush=True)


def main() -> None:
    conf = cfg.ConfigOpts()
    conf([])
    oslo_messaging.set_transport_defaults("ironic")
    transport = oslo_messaging.get_notification_transport(conf, url=sys.argv[1])
    conf.set_override("amqp_durable_queues", "--durable" in sys.argv, group="oslo_messaging_rabbit")
    targets = [oslo_messaging.Target(topic="ironic_versioned_notifications", exchange="ironic")]
    listener = oslo_messaging.get_notification_listener(transport, targets, [Endpoint()], executor="threading")
    listener.start()
    print("{}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
