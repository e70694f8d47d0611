"""The connection to the broker: comes up, comes back, and says what is wrong."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractConnection

from metald.amqp import link as link_module
from metald.amqp import topology
from metald.amqp.link import Link
from metald.config import Amqp, ConfigError
from tests.amqp.conftest import running, settings
from tests.support.commanding import PATIENCE
from tests.support.rabbit import PrivateRabbit
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.rabbit]


async def test_a_user_runs_with_every_connection(broker: PrivateRabbit, url: str) -> None:
    """The broker is killed and comes back: the user is cancelled, then run again with the new connection."""
    link = Link(settings(url), "test", "events")
    begun: asyncio.Queue[AbstractConnection] = asyncio.Queue()
    ended = asyncio.Event()

    async def user(connection: AbstractConnection) -> None:
        begun.put_nowait(connection)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    link.attach("user", user)
    async with running(link), asyncio.timeout(PATIENCE):
        first = await begun.get()
        assert link.connected
        assert not link.blocked
        stopping = asyncio.create_task(asyncio.to_thread(broker.pause))
        await ended.wait()
        await link.down.wait()
        assert not link.connected
        await stopping
        while not link.failures:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(broker.resume)
        second = await begun.get()
    assert first is not second
    assert second.is_closed
    assert (link.connects, link.losses) == (2, 1)
    assert link.failures > 0


async def test_wrong_credentials_are_said_once_and_tried_again(broker: PrivateRabbit, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(settings(broker.url(user="nobody:s3cret-word")), "test", "events")
    caplog.set_level(logging.WARNING, "metald")
    async with running(link), asyncio.timeout(PATIENCE):
        while link.failures < 3:
            await asyncio.sleep(0.01)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("metald")]
    assert len(told) == 1
    assert "refuses user 'nobody'" in told[0]
    assert "amqp.url" in told[0]
    assert "s3cret" not in caplog.text


async def test_a_user_whose_channel_is_closed_runs_again_on_the_same_connection(url: str) -> None:
    """Declaring an exchange with other properties makes the broker close the channel, and nothing else."""
    link = Link(settings(url), "test", "events")
    tries: list[AbstractConnection] = []
    done = asyncio.Event()

    async def user(connection: AbstractConnection) -> None:
        tries.append(connection)
        async with link.channel(connection) as channel:
            if len(tries) == 1:
                await channel.declare_exchange("taken", "fanout", durable=True)
                await topology.topic(channel, settings(url), "taken")
        done.set()

    link.attach("user", user)
    async with running(link), asyncio.timeout(PATIENCE):
        await done.wait()
    assert tries[0] is tries[1]
    assert (link.connects, link.refusals) == (1, 1)


async def test_a_user_that_holds_on_to_a_cancellation_does_not_keep_the_link_from_coming_back(
    broker: PrivateRabbit, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As aiormq's requests do, when a connection dies under them."""
    monkeypatch.setattr(link_module, "_CLOSING", 0.05)
    begun: asyncio.Queue[AbstractConnection] = asyncio.Queue()

    async def user(connection: AbstractConnection) -> None:
        begun.put_nowait(connection)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        link = Link(settings(url.replace(f":{broker.port}/", f":{proxy.port}/")), "test", "events")
        link.attach("user", user)
        async with running(link), asyncio.timeout(PATIENCE):
            await begun.get()
            proxy.cut()
            await begun.get()


async def test_a_user_with_a_defect_is_logged_and_runs_again(url: str, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(settings(url), "test", "events")
    tries: list[str] = []
    done = asyncio.Event()

    async def broken(_connection: AbstractConnection) -> None:
        tries.append("broken")
        if len(tries) == 1:
            raise KeyError("a defect of its own")
        done.set()

    link.attach("broken", broken)
    async with running(link), asyncio.timeout(PATIENCE):
        await done.wait()
    assert "broken: this use of the broker has a defect" in caplog.text
    assert (link.connects, link.refusals) == (1, 1)


async def test_what_is_no_broker_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, running(Link(settings(f"amqp://127.0.0.1:{port}/"), "test", "events")) as link, asyncio.timeout(PATIENCE):
        while link.failures < 2:
            await asyncio.sleep(0.01)
    assert f"the broker at 127.0.0.1:{port} cannot be reached" in caplog.text


async def test_a_broker_that_never_answers_is_given_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    slow = settings(f"amqp://127.0.0.1:{port}/", timeout=0.1)
    async with server, running(Link(slow, "test", "events")) as link, asyncio.timeout(PATIENCE):
        while link.failures < 2:
            await asyncio.sleep(0.01)
    assert "it does not answer" in caplog.text


async def test_tls_is_checked(broker: PrivateRabbit, certificates: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    address = broker.url(tls=True)
    async with running(Link(settings(address, tls_ca=str(certificates[0])), "test", "events")) as link, asyncio.timeout(PATIENCE):
        await link.up.wait()
    async with running(Link(settings(address), "test", "events")) as link, asyncio.timeout(PATIENCE):
        while not link.failures:
            await asyncio.sleep(0.01)
        assert not link.connected
    assert "certificate verify failed" in caplog.text.lower()


async def test_an_alarm_of_the_broker_is_seen(broker: PrivateRabbit, url: str) -> None:
    link = Link(settings(url), "test", "events")
    opened = asyncio.Event()

    async def user(connection: AbstractConnection) -> None:
        async with link.channel(connection) as channel:
            exchange = await topology.topic(channel, settings(url), "some")
            opened.set()
            while True:
                # only a connection that publishes is stopped
                await exchange.publish(Message(b"x" * 1000), "key", mandatory=False)
                await asyncio.sleep(0.05)

    link.attach("user", user)
    async with running(link), asyncio.timeout(PATIENCE):
        await opened.wait()
        await asyncio.to_thread(broker.alarm, True)
        try:
            while not link.blocked:
                await asyncio.sleep(0.01)
        finally:
            await asyncio.to_thread(broker.alarm, False)
        await link.unblocked()
        assert not link.blocked
        assert link.losses == 0


async def test_only_looking_does_not_make(url: str, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(settings(url), "test", "events")

    async def user(connection: AbstractConnection) -> None:
        async with link.channel(connection) as channel:
            await topology.topic(channel, settings(url, declare=False), "missing")

    link.attach("user", user)
    async with running(link), asyncio.timeout(PATIENCE):
        while not link.refusals:
            await asyncio.sleep(0.01)
    assert "no exchange 'missing'" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"url": "amqp://host:port/"}, "amqp.url"),
        ({"url": "amqps://host/", "tls_ca": "/nonexistent"}, "amqp.tls_ca"),
        ({"url": "amqps://host/", "tls_certificate": "/nonexistent", "tls_key": "/nonexistent"}, "amqp.tls_certificate"),
    ],
)
def test_settings_that_cannot_work_are_named(wrong: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Link(Amqp(**wrong), "test", "events")
