"""The wall clock of a whole daemon jumps, hours and years: commands, claims, events and watchers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest

from tests.amqp.test_amqp_metrics import scrape, until
from tests.support.clock import DAY, HOUR, Clock
from tests.support.commanding import Place, commanded, producing
from tests.support.daemon import SERVE, Daemon, api, by
from tests.support.signing import claims, keys_file, token
from tests.support.watching import EventSource

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}
BODY = b'{"driver": "fake-hardware"}'
READY = {"commands_consuming/urgent": 1, "commands_consuming/commands": 1}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@contextlib.asynccontextmanager
async def _daemon(folder: Path, place: Place, clock: Clock, **more: object) -> AsyncIterator[Daemon]:
    """A daemon that lives by the clock, which is right at its start; at the end, nothing was lost and nothing went wrong."""
    clock.ahead(0)
    settings = {"amqp.url": place.url, "amqp.commands.exchange": place.exchange, "amqp.retry_delay": 0.05, **more}
    async with Daemon(folder, settings) as daemon:
        await daemon.start(by(*SERVE, **clock.environment))
        await until(daemon, **READY)
        yield daemon
        seen = await scrape(daemon)
        assert (seen["connection_losses_total/publish"], seen["connection_losses_total/consume"]) == (0, 0)
        await daemon.stop()
        daemon.assert_clean()


async def _names(daemon: Daemon) -> list[str]:
    async with api(daemon) as client:
        return [node["name"] for node in (await client.ask("GET", "/v1/nodes"))["nodes"]]


async def test_commands_that_wait_for_their_time(tmp_path: Path, place: Place, clock: Clock) -> None:
    def at(hours: float) -> dict[str, Any]:
        return {"headers": {"notbefore": (datetime.now(UTC) + timedelta(hours=hours)).isoformat()}}

    async with _daemon(tmp_path, place, clock) as daemon, producing(place) as producer:
        await producer.send("node.create", "waits", {**FAKE, "name": "waits"}, **at(1))
        await producer.ask("node.create", "now", {**FAKE, "name": "now"})
        clock.ahead(-5 * HOUR)
        assert (await producer.ask("node.create", "behind", {**FAKE, "name": "behind"}))["status"] == "accepted"
        assert await _names(daemon) == ["now", "behind"]
        clock.ahead(2 * HOUR)
        await producer.send("node.create", "later", FAKE, **at(100))  # one more that waits has the others looked at
        done = await producer.reply()
        assert (done["command"], done["status"]) == ("waits", "accepted")
        clock.ahead(0)
        again = await producer.ask("node.create", "waits", {**FAKE, "name": "waits"}, **at(1))
        assert (again["status"], again["node"]) == ("accepted", done["node"])
        assert await _names(daemon) == ["now", "behind", "waits"]


async def test_lifetimes_of_messages(tmp_path: Path, place: Place, clock: Clock) -> None:
    """One that says when it was sent is too late by a clock that is ahead; one that does not has its lifetime from when it comes."""
    async with _daemon(tmp_path, place, clock) as daemon, producing(place) as producer:
        sent = {"expiration": 600, "timestamp": datetime.now(UTC)}
        clock.ahead(2 * DAY)
        late = await producer.ask("node.create", "late", {**FAKE, "name": "late"}, **sent)
        assert (late["status"], late["code"]) == ("refused", 408)
        assert (await producer.ask("node.create", "fresh", {**FAKE, "name": "fresh"}, expiration=600))["status"] == "accepted"
        clock.ahead(-2 * DAY)
        assert (await producer.ask("node.create", "early", {**FAKE, "name": "early"}, **sent))["status"] == "accepted"
        again = await producer.ask("node.create", "late", {**FAKE, "name": "late"}, **sent)
        assert again["code"] == 408, "an answer stays, whatever the clock says later"
        assert await _names(daemon) == ["fresh", "early"]


async def test_claims(tmp_path: Path, place: Place, clock: Clock) -> None:
    def signed(id_: str, **more: Any) -> dict[str, Any]:
        return {"headers": {"metald-claim": token(claims(id_, "node.create", BODY, **{"roles": ["admin"], "system": True, **more}))}}

    async with (
        _daemon(tmp_path, place, clock, **{"amqp.commands.keys": keys_file(tmp_path)}) as daemon,
        producing(place) as producer,
    ):
        first, second = signed("1", exp=time.time() + 1800), signed("2", exp=time.time() + 1800, nbf=time.time())
        done = await producer.ask("node.create", "1", BODY, **first)
        assert done["status"] == "accepted"
        clock.ahead(DAY)
        assert (await producer.ask("node.create", "1", BODY, **first))["node"] == done["node"], "it was taken in time"
        refused = await producer.ask("node.create", "2", BODY, **second)
        assert (refused["code"], "The claim ended" in refused["error"]["error_message"]) == (403, True)
        clock.ahead(-DAY)
        refused = await producer.ask("node.create", "2", BODY, **second)
        assert (refused["code"], "not valid yet" in refused["error"]["error_message"]) == (403, True)
        clock.ahead(0)
        assert (await producer.ask("node.create", "2", BODY, **second))["status"] == "accepted"
        assert len(await _names(daemon)) == 2


async def test_events_and_those_who_watch(tmp_path: Path, place: Place, clock: Clock) -> None:
    """Their numbers say what came after what; their times are what the clock showed."""
    jumps = (0, 400 * DAY, 400 * DAY + HOUR, -400 * DAY, -HOUR, 0)
    async with commanded(tmp_path / "before", place):
        pass
    async with await aio_pika.connect(place.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("metald.events", "topic", durable=True)
        queue = await channel.declare_queue("everything", durable=True)
        await queue.bind(exchange, "#")
        async with (
            _daemon(tmp_path, place, clock) as daemon,
            api(daemon) as client,
            aiohttp.ClientSession() as session,
            session.get(f"{daemon.url}/v1/events/stream?since=0&type=node.create") as answer,
        ):
            source, watched = EventSource(answer), []
            for number, ahead in enumerate(jumps):
                clock.ahead(ahead)
                await client.create(**FAKE, name=f"n{number}")
                watched.append((await source.next()).data)
                moment = datetime.fromisoformat(watched[-1]["time"]).timestamp()
                assert abs(moment - clock.now()) < HOUR / 2
            last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            kept = [event["seq"] for event in (await client.ask("GET", "/v1/events?since=0"))["events"]]
            assert kept == list(range(1, last + 1))
            assert [event["seq"] for event in watched] == sorted(event["seq"] for event in watched)
            assert [event["data"]["name"] for event in watched] == [f"n{i}" for i in range(len(jumps))]
            async with queue.iterator(no_ack=True) as messages:
                assert [int((await anext(messages)).message_id or 0) for _ in range(last)] == kept
