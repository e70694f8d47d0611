"""Tests on a real broker: one private RabbitMQ for the worker that runs them, a virtual host for each test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from metald.amqp.link import Link
from metald.config import Amqp
from tests.support.commanding import Place
from tests.support.rabbit import PrivateRabbit, available, private_rabbit
from tests.support.tls import authority


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("rabbit") is not None:
            item.add_marker(pytest.mark.xdist_group("rabbit"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A CA, and a certificate with its key for localhost."""
    return authority(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="session")
def broker(certificates: tuple[Path, Path, Path]) -> Iterator[PrivateRabbit]:
    if not available():
        pytest.skip("no RabbitMQ: apt-get install rabbitmq-server")
    yield from private_rabbit(certificates)


@pytest.fixture
def url(broker: PrivateRabbit) -> Iterator[str]:
    """A virtual host of the test's own."""
    host = broker.fresh_host()
    yield broker.url(host)
    broker.remove_host(host)


@pytest.fixture
def place(url: str) -> Place:
    """Where commands of the test go."""
    return Place(url, "metald.commands")


@contextlib.asynccontextmanager
async def running(link: Link) -> AsyncIterator[Link]:
    """The link, with its task."""
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def settings(url: str, **more: object) -> Amqp:
    """Settings of a link that tries again soon."""
    return Amqp(**{"url": url, "retry_delay": 0.05, **more})  # type: ignore[arg-type]
