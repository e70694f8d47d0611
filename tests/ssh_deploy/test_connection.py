"""Connections to ramdisks that go silent, talk nonsense, refuse, or go away."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncssh
import pytest

from metald.boot import credentials
from metald.config import Ssh
from metald.drivers.ssh.connection import Connections
from metald.errors import DeployError, Invalid, RamdiskLost
from metald.model import Node
from metald.model.boot import boot_id

Script = Callable[[Any], Awaitable[None]]


class Sshd:
    """A ramdisk's sshd whose commands do what the test says."""

    def __init__(self) -> None:
        info = credentials.new_credentials("deploy")
        self.node = Node(driver="ipmi", name="n1", driver_internal_info=info)
        self.script: Script | None = None
        self.sessions = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.client_key = info["boot_client_public_key"]
        self.connector = Connections(Ssh(connect_timeout=2.0, keepalive=1.0))

    async def serve(self, process: Any) -> None:
        self.sessions += 1
        if self.connections.count(process.get_extra_info("connection")) == 0:
            self.connections.append(process.get_extra_info("connection"))
        assert self.script is not None
        await self.script(process)

    def calls(self, port: int) -> None:
        info = self.node.driver_internal_info
        facts = {"address": "127.0.0.1", "port": port, "boot": boot_id(self.node)}
        self.node = self.node.changed(driver_internal_info={**info, "ramdisk": facts})

    async def start(self) -> asyncssh.SSHAcceptor:
        info = self.node.driver_internal_info
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.import_private_key(info["boot_host_private_key"])],
            authorized_client_keys=asyncssh.import_authorized_keys(self.client_key),
            process_factory=self.serve,
            encoding=None,
        )
        self.calls(server.get_port())
        return server


@pytest.fixture
async def sshd() -> AsyncIterator[Sshd]:
    made = Sshd()
    server = await made.start()
    yield made
    await made.connector.close_all()
    server.close()
    await server.wait_closed()


async def test_one_connection_serves_all_commands_of_a_boot(sshd: Sshd) -> None:
    async def echo(process: Any) -> None:
        data = await process.stdin.read()
        process.stdout.write(process.command.encode() + b"|" + data)
        process.exit(0)

    sshd.script = echo

    async def one(number: int) -> bytes:
        return await (await sshd.connector.to(sshd.node)).run("read", f"it's {number}; $(x)", data=b"in")

    answers = await asyncio.gather(*(one(number) for number in range(5)))
    assert answers[3] == b"metald-ramdisk read 'it'\"'\"'s 3; $(x)'|in"
    assert (sshd.sessions, len(sshd.connections)) == (5, 1)
    await sshd.connector.close(boot_id(sshd.node))
    await one(9)
    assert len(sshd.connections) == 2


async def test_a_command_that_fails_says_why(sshd: Sshd) -> None:
    async def fail(process: Any) -> None:
        process.stderr.write(b"no such disk\n")
        process.exit(1)

    sshd.script = fail
    session = await sshd.connector.to(sshd.node)
    with pytest.raises(DeployError, match="zero failed in the ramdisk: no such disk"):
        await session.run("zero")


async def test_silence_is_a_lost_ramdisk_and_the_next_command_connects_anew(sshd: Sshd) -> None:
    silent = asyncio.Event()

    async def wait(process: Any) -> None:
        await silent.wait()

    async def good(process: Any) -> None:
        process.exit(0)

    sshd.script = wait
    session = await sshd.connector.to(sshd.node)
    with pytest.raises(RamdiskLost, match="read did not end"):
        await session.run("read", timeout=0.1)
    session = await sshd.connector.to(sshd.node)
    with pytest.raises(RamdiskLost, match="nothing came for"):
        async for _ in session.lines("image", silence=0.1):
            pass
    silent.set()
    sshd.script = good
    assert await (await sshd.connector.to(sshd.node)).run("flush") == b""


async def test_a_connection_that_is_cut(sshd: Sshd) -> None:
    async def cut(process: Any) -> None:
        process.stdout.write(b'{"state":"running"}\n')
        await process.stdout.drain()
        process.get_extra_info("connection").abort()

    sshd.script = cut
    session = await sshd.connector.to(sshd.node)
    lines = session.lines("image", silence=5)
    assert await anext(lines) == {"state": "running"}
    with pytest.raises(RamdiskLost):
        await anext(lines)
    with pytest.raises(RamdiskLost):
        await session.run("flush")
    with pytest.raises(RamdiskLost):
        await (await sshd.connector.to(sshd.node)).run("disks")


async def test_nonsense_is_shown(sshd: Sshd) -> None:
    async def talk(process: Any) -> None:
        process.stdout.write(b"sh: metald-ramdisk: not found\n")
        process.exit(127)

    sshd.script = talk
    session = await sshd.connector.to(sshd.node)
    with pytest.raises(DeployError, match="the ramdisk said: sh: metald-ramdisk: not found"):
        async for _ in session.lines("image", silence=5):
            pass


async def test_our_key_is_refused(sshd: Sshd) -> None:
    other = credentials.new_credentials("deploy")["boot_client_private_key"]
    sshd.node = sshd.node.changed(driver_internal_info={**sshd.node.driver_internal_info, "boot_client_private_key": other})
    with pytest.raises(DeployError, match="refuses the key"):
        await sshd.connector.to(sshd.node)


async def test_a_port_that_accepts_and_says_nothing(sshd: Sshd) -> None:
    connector = Connections(Ssh(connect_timeout=0.2))
    closed = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    sshd.calls(server.sockets[0].getsockname()[1])
    with pytest.raises(RamdiskLost, match=r"did not answer|cannot be reached"):
        await connector.to(sshd.node)
    closed.set()
    server.close()


async def test_a_node_without_keys(sshd: Sshd) -> None:
    info = {key: value for key, value in sshd.node.driver_internal_info.items() if key != "boot_client_private_key"}
    with pytest.raises(Invalid, match="no SSH keys"):
        await sshd.connector.to(sshd.node.changed(driver_internal_info=info))


class Kept:
    """A connection as far as its keeper looks at it."""

    def __init__(self) -> None:
        self.looks = 0
        self.closed = False

    def is_closed(self) -> bool:
        self.looks += 1
        return self.closed

    def abort(self) -> None:
        self.closed = True


async def test_looking_for_closed_connections_costs_little_however_many_are_kept() -> None:
    connector = Connections(Ssh())
    kept: list[Kept] = []
    for number in range(1000):
        kept.append(Kept())
        connector._open[f"boot{number}"] = kept[-1]  # type: ignore[assignment]
        connector._drop_closed()
    assert sum(one.looks for one in kept) < 2000
    for one in kept:
        one.abort()
    for number in range(1000, 3000):
        connector._open[f"boot{number}"] = Kept()  # type: ignore[assignment]
        connector._drop_closed()
    assert not any(f"boot{number}" in connector._open for number in range(1000))


@pytest.mark.parametrize("who", ["we", "they"])
async def test_a_connection_that_ended_leaves_nothing_to_the_garbage_collector(sshd: Sshd, who: str) -> None:
    async def leave(process: Any) -> None:
        process.exit(0)

    sshd.script = leave
    gc.collect()
    gc.disable()
    try:
        session = await sshd.connector.to(sshd.node)
        await session.run("probe")
        connection = weakref.ref(session._connection)
        if who == "they":
            sshd.connections[0].abort()
            while connection() is not None and not connection().is_closed():  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        del session
        await sshd.connector.close_all()
        async with asyncio.timeout(30):
            while connection() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_a_command_that_says_more_than_fits_is_an_error(sshd: Sshd) -> None:
    async def babble(process: Any) -> None:
        for _ in range(9):
            process.stdout.write(bytes(1 << 20))
        process.exit(0)

    sshd.script = babble
    with pytest.raises(DeployError, match="facts said more than 8 MiB"):
        await (await sshd.connector.to(sshd.node)).run("facts")


async def test_a_line_without_end_is_told_as_nonsense_once_it_is_too_long(sshd: Sshd) -> None:
    async def babble(process: Any) -> None:
        for _ in range(9):
            process.stdout.write(b"x" * (1 << 20))
        await process.stdin.read()

    sshd.script = babble
    with pytest.raises(DeployError, match="the ramdisk said: xxx"):
        async for _ in (await sshd.connector.to(sshd.node)).lines("write", silence=30):
            pass


@pytest.mark.parametrize("what", ["connection", "command"])
async def test_a_line_that_is_cut_off_is_a_lost_ramdisk_and_no_nonsense(sshd: Sshd, what: str) -> None:
    async def cut(process: Any) -> None:
        process.stdout.write(b'{"part": 1}\n{"part": ')
        await process.stdout.drain()
        if what == "connection":
            process.get_extra_info("connection").abort()
        else:
            process.close()

    sshd.script = cut
    told = (await sshd.connector.to(sshd.node)).lines("write", silence=30)
    assert await anext(told) == {"part": 1}
    with pytest.raises(RamdiskLost):
        await anext(told)


async def test_a_last_line_without_end_counts_when_the_command_ended_well(sshd: Sshd) -> None:
    async def tell(process: Any) -> None:
        process.stdout.write(b'{"part": 1}\n{"part": 2}')
        process.exit(0)

    sshd.script = tell
    assert [line async for line in (await sshd.connector.to(sshd.node)).lines("write", silence=30)] == [{"part": 1}, {"part": 2}]
