"""A user of the broker who may do what the documentation says and nothing else, one who may not answer, and one with another password."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest

from metald.amqp.commands import replies
from tests.support.commanding import PATIENCE, Place, commanded, following, producing
from tests.support.daemon import Daemon, api
from tests.support.rabbit import PrivateRabbit

pytestmark = pytest.mark.rabbit

FAKE: dict[str, Any] = {"driver": "fake-hardware"}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/howto/events.md"
IRONIC = "ironic_versioned_notifications.info"


def documented(which: str) -> tuple[str, str, str]:
    """What to configure, to write and to read, as the documentation has it."""
    found = re.search(rf"```sh {which}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " "))
    assert words[:5] == ["rabbitmqctl", "set_permissions", "-p", "metald", "metald"]
    configure, write, read = words[5:]
    return configure, write, read


@pytest.fixture
async def limited(broker: PrivateRabbit, place: Place) -> AsyncIterator[Place]:
    """The same place, as another user sees it, who may do nothing yet."""
    await asyncio.to_thread(broker.add_user, "metald", "secret", _host(place))
    await _allow(broker, place, ("^$", "^$", "^$"))
    yield Place(place.url.replace("guest:guest@", "metald:secret@"), place.exchange)
    await asyncio.to_thread(broker.remove_user, "metald")


def _host(place: Place) -> str:
    return place.url.rpartition("/")[2]


async def _allow(broker: PrivateRabbit, place: Place, permissions: tuple[str, str, str]) -> None:
    await asyncio.to_thread(broker.permit, "metald", _host(place), *permissions)


@pytest.mark.parametrize("which", ["default", "notifications", "declared"])
async def test_what_is_documented_is_enough(tmp_path: Path, broker: PrivateRabbit, place: Place, limited: Place, which: str) -> None:
    notified = which == "notifications"
    settings: dict[str, object] = {
        "amqp.retry_delay": 0.05, "drivers.enabled_hardware_types": "fake-hardware", "amqp.notifications": str(notified).lower(),
    }  # fmt: skip
    if which == "declared":
        async with Daemon(tmp_path / "first", {**settings, "amqp.url": place.url}) as first, api(first) as client:
            await first.start()
            async with asyncio.timeout(PATIENCE):
                while 'amqp_commands_consuming{queue="commands"} 1' not in await _metrics(client):
                    await asyncio.sleep(0.05)
    await _allow(broker, limited, documented(which))
    settings |= {"amqp.url": limited.url, "amqp.declare": str(which != "declared").lower()}
    async with Daemon(tmp_path / "second", settings) as daemon, producing(place) as producer, api(daemon) as client:
        kept = await producer.channel.declare_queue("kept", durable=True)
        exchange = await producer.channel.declare_exchange("metald.events", "topic", durable=True)
        await kept.bind(exchange, "#")
        await daemon.start()
        async with asyncio.timeout(PATIENCE):
            while 'amqp_commands_consuming{queue="commands"} 1' not in await _metrics(client):
                await asyncio.sleep(0.05)
        made = await producer.ask("node.create", "1", FAKE)
        assert made["status"] == "accepted"
        assert (await producer.ask("node.create", "2", FAKE, key="urgent.node.create"))["status"] == "accepted"
        assert (await producer.ask("node.create", "3", b"no JSON"))["status"] == "refused"
        assert (await producer.dead()).message_id == "3"
        assert orjson.loads((await following(kept)).body)["subject"] == made["node"]
        if notified:
            told = orjson.loads((await following(await producer.channel.get_queue(IRONIC))).body)
            assert made["node"] in told["oslo.message"]
        found = await _metrics(client)
        assert 'metald_amqp_refusals_total{connection="publish"} 0' in found
        assert 'metald_amqp_refusals_total{connection="consume"} 0' in found
        await daemon.stop()
        daemon.assert_clean()
        assert "refused" not in daemon.output()


async def _metrics(client: Any) -> str:
    async with client._session.get(client._daemon.url + "/metrics") as answer:
        return str(await answer.text())


async def test_who_may_not_answer_does_all_else(
    tmp_path: Path, broker: PrivateRabbit, place: Place, limited: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure, write, read = documented("default")
    await _allow(broker, limited, (configure, write.replace(r"|amq\.default", ""), read))
    async with commanded(tmp_path, limited) as site, producing(place) as producer:
        for i in range(300):
            await producer.send("node.create", str(i), FAKE)
        await producer.send("node.create", "bad", b"no JSON")
        assert (await producer.dead()).message_id == "bad"
        await site.until(lambda: site.commands.ledger.losses.counts["forbidden"] == 301 and site.commands.ledger.unsent == 0)
        assert (site.commands.intakes[1].taken, site.commands.intakes[1].rejected) == (300, 1)
        assert (site.out.refusals, site.out.connects, site.link.refusals) == (0, 1, 0)
        assert "give its user the permission to write to amq.default" in caplog.text
        assert producer.inbox.empty()
        # with the permission, the same command again is answered
        await _allow(broker, limited, documented("default"))
        monkeypatch.setattr(site.commands.replies, "_forbidden_until", 0.0)
        assert (await producer.ask("node.create", "1", FAKE))["status"] == "accepted"
    assert replies._FORBIDDEN > 0


async def test_a_password_that_is_corrected_at_the_broker(tmp_path: Path, broker: PrivateRabbit, place: Place, limited: Place) -> None:
    """Meanwhile HTTP goes on and events wait; then all of them come, in order, and commands are taken."""
    await _allow(broker, limited, documented("default"))
    await asyncio.to_thread(broker.change_password, "metald", "another")
    settings = {"amqp.url": limited.url, "amqp.retry_delay": 0.05, "drivers.enabled_hardware_types": "fake-hardware"}
    connection = await aio_pika.connect(place.url)
    async with connection:
        channel = await connection.channel()
        kept = await channel.declare_queue("kept", durable=True)
        await kept.bind(await channel.declare_exchange("metald.events", "topic", durable=True), "#")
        async with Daemon(tmp_path, settings) as daemon, api(daemon) as client:
            await daemon.start()
            for _ in range(30):
                await client.create(**FAKE)
            async with asyncio.timeout(PATIENCE):
                while daemon.output().count("refuses user 'metald'") < 2:  # once for each connection
                    await asyncio.sleep(0.05)
            last = (await client.ask("GET", "/v1/events?limit=1"))["last_seq"]
            assert last >= 30
            assert await kept.get(fail=False) is None
            assert "secret" not in daemon.output()
            await asyncio.to_thread(broker.change_password, "metald", "secret")
            ids = [int((await following(kept)).message_id or 0) for _ in range(last)]
            assert ids == list(range(1, last + 1))
            async with producing(place) as producer:
                async with asyncio.timeout(PATIENCE):
                    while 'amqp_commands_consuming{queue="commands"} 1' not in await _metrics(client):
                        await asyncio.sleep(0.05)
                assert (await producer.ask("node.create", "1", FAKE))["status"] == "accepted"
            assert daemon.output().count("refuses user 'metald'") == 2
            await daemon.stop()
            daemon.assert_clean()
