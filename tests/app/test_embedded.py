"""Without a broker there is nothing of a broker: no module of AMQP is loaded, whatever the daemon does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.daemon import SERVE, Daemon, api, by

_BROKERS = re.compile(r"^import time:.*\b((?:aio_pika|aiormq|pamqp|metald\.amqp)\b.*)$", re.MULTILINE)
_TRACING = by(sys.executable, "-X", "importtime", *SERVE[1:])
"""The command that users run, by an interpreter that says what it loads."""


@pytest.mark.parametrize("broker", [False, True])
async def test_only_who_has_a_broker_loads_what_speaks_to_it(tmp_path: Path, broker: bool) -> None:
    settings = {"amqp.url": "amqp://guest:guest@127.0.0.1:1/"} if broker else {}
    async with Daemon(tmp_path, {"drivers.enabled_hardware_types": "fake-hardware", **settings}) as daemon:
        await daemon.start(_TRACING)
        async with api(daemon) as client:
            node = await client.create(driver="fake-hardware")
            await client.provision(node, "manage")
            assert (await client.ask("GET", "/v1/events?limit=1"))["events"]
        await daemon.stop()
        assert "metald.http.watch.hub" in daemon.output(), "what is loaded is seen"
        loaded = set(_BROKERS.findall(daemon.output()))
        assert bool(loaded) is broker, loaded
