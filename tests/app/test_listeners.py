"""Listening on machines that lack a family of addresses."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from metald.config import ConfigError
from metald.listeners import bound, sockets


@pytest.fixture
def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without(at: Any, *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(at, family=family, backlog=backlog)

    monkeypatch.setattr("metald.listeners.socket.create_server", without)


@pytest.mark.usefixtures("without_ipv6")
async def test_every_address_is_those_of_the_families_that_there_are() -> None:
    found = await sockets("", 0)
    assert [each.family for each in found] == [socket.AF_INET]
    for each in found:
        each.close()


@pytest.mark.usefixtures("without_ipv6")
async def test_an_api_that_could_listen_nowhere_is_refused_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"api\.listen: \[::1\]:0 cannot be used: Address family not supported"):
        await bound("[::1]:0")


async def test_what_was_bound_is_let_go_when_a_later_address_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    create = socket.create_server

    def second_fails(at: Any, *, family: int, backlog: int) -> socket.socket:
        if made:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        made.append(create(at, family=family, backlog=backlog))
        return made[0]

    monkeypatch.setattr("metald.listeners.socket.create_server", second_fails)
    with pytest.raises(OSError, match="already in use"):
        await sockets("", 0)
    assert made[0].fileno() == -1
