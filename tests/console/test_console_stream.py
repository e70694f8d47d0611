"""A console that many share: readers, writers, a line that breaks, logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.config import ConfigError
from metald.config import Console as Settings
from metald.console.consoles import Consoles, port_range
from metald.console.line import Line, LineEnded
from metald.console.logs import ConsoleLogs
from metald.console.stream import ConsoleStream
from metald.errors import BmcUnreachable, Conflict, NotAllowed, NotFound, Unavailable
from metald.model import Event
from tests.support.daemon import free_port


class Cable:
    """A line whose other end is the test."""

    def __init__(self) -> None:
        self.printed: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.typed = b""
        self.breaks = 0
        self.closed = False

    async def read(self) -> bytes:
        data = await self.printed.get()
        if data is None:
            raise LineEnded("somebody pulled the plug")
        return data

    async def write(self, data: bytes) -> None:
        self.typed += data

    def send_break(self) -> None:
        self.breaks += 1

    async def close(self) -> None:
        self.closed = True


class Machine:
    """Gives out cables, and says so."""

    def __init__(self) -> None:
        self.cables: list[Cable] = []
        self.unreachable = 0
        self.dialled = asyncio.Event()

    async def dial(self) -> Line:
        if self.unreachable:
            self.unreachable -= 1
            raise BmcUnreachable("BMC x did not answer.")
        self.cables.append(Cable())
        self.dialled.set()
        return self.cables[-1]


@contextlib.asynccontextmanager
async def running(machine: Machine, **changes: object) -> AsyncIterator[ConsoleStream]:
    arguments = {"scrollback": 100, "most_readers": 3, "longest_pause": 0.01, "record": lambda _data: None, **changes}
    stream = ConsoleStream("m", machine.dial, **arguments)  # type: ignore[arg-type]
    task = asyncio.create_task(stream.run())
    await machine.dialled.wait()
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.wait([task])


async def seen(reader: object, text: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(10):
        while text not in found:
            piece = await reader.read()  # type: ignore[attr-defined]
            assert piece, f"closed after {found!r}"
            found += piece
    return found


async def test_all_see_the_same_and_all_may_type() -> None:
    machine = Machine()
    async with running(machine) as stream:
        one, two = stream.join(), stream.join()
        machine.cables[0].printed.put_nowait(b"login: ")
        assert await seen(one, b"login: ") == await seen(two, b"login: ")
        await stream.write(b"root\r")
        stream.send_break()
        assert (machine.cables[0].typed, machine.cables[0].breaks) == (b"root\r", 1)
        late = stream.join()
        assert b"login: " in await late.read()
        with pytest.raises(Unavailable, match="3 readers already"):
            stream.join()
        late.leave()
        assert stream.readers == 2


async def test_the_scrollback_is_bounded_and_a_slow_reader_is_told_what_it_missed() -> None:
    machine = Machine()
    async with running(machine) as stream:
        slow, quick = stream.join(), stream.join()
        for _ in range(6):
            machine.cables[0].printed.put_nowait(b"x" * (64 << 10))
        machine.cables[0].printed.put_nowait(b"END")
        await seen(quick, b"END")
        found = await slow.read()
        assert b"bytes were skipped" in found
        assert len(found) <= (256 << 10) + 100
        assert await stream.join().read() == b"x" * 97 + b"END"


async def test_a_line_that_breaks_is_opened_again_and_the_reader_stays() -> None:
    machine = Machine()
    async with running(machine) as stream:
        reader = stream.join()
        machine.unreachable = 3
        machine.dialled.clear()
        machine.cables[0].printed.put_nowait(None)
        async with asyncio.timeout(10):
            await machine.dialled.wait()
        machine.cables[1].printed.put_nowait(b"back")
        found = await seen(reader, b"back")
        assert b"somebody pulled the plug" in found
        assert found.count(b"did not answer") == 1  # said once, tried thrice
        assert machine.cables[0].closed
        assert stream.connected


async def test_the_end_of_a_console_is_the_end_for_its_readers() -> None:
    machine = Machine()
    async with running(machine) as stream:
        reader = stream.join()
    assert b"the console is closed" in await reader.read()
    assert await reader.read() == b""
    assert machine.cables[0].closed


async def test_logs_are_written_rotated_and_private(tmp_path: Path) -> None:
    logs = ConsoleLogs(tmp_path / "console", 1000, 3)
    for number in range(8):
        logs.add("node", b"%d" % number * 600)
        await logs.flush()
    names = sorted(path.name for path in (tmp_path / "console").iterdir())
    assert names == ["node.log.1", "node.log.2"]
    assert (tmp_path / "console" / "node.log.1").read_bytes() == b"6" * 600 + b"7" * 600
    assert (tmp_path / "console" / "node.log.1").stat().st_mode & 0o777 == 0o600


async def test_a_disk_that_is_gone_costs_log_lines_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "console").write_text("a file where the directory should be")
    logs = ConsoleLogs(tmp_path / "console", 1000, 3)
    for _ in range(3):
        logs.add("node", b"text")
        await logs.flush()
    assert len(caplog.records) == 1


async def test_a_token_is_for_one_node_and_a_short_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consoles = Consoles(Settings(), tmp_path)
    token = consoles.socket_path("a").partition("token=")[2]
    consoles.check("a", token)
    for node, wrong in (("b", token), ("a", ""), ("a", "9999999999." + token.partition(".")[2]), ("a", "\u0663.x"), ("a", token + "0")):
        with pytest.raises(NotAllowed):
            consoles.check(node, wrong)
    monkeypatch.setattr("time.time", lambda: 9e9)
    with pytest.raises(NotAllowed):
        consoles.check("a", token)


async def test_a_tcp_port_serves_many_and_a_taken_one_is_passed_over(tmp_path: Path) -> None:
    machine = Machine()
    first = free_port()
    async with Consoles(Settings(port_range=f"{first}:{first + 1}"), tmp_path) as consoles:
        taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", first)
        consoles.open("a", "m", machine.dial)
        assert consoles.open("a", "m", machine.dial) is consoles.stream("a")
        await consoles.listen("a", None)
        assert consoles.tcp_url("a") == f"tcp://127.0.0.1:{first + 1}"
        consoles.open("b", "n", machine.dial)
        with pytest.raises(Conflict, match="port_range"):
            await consoles.listen("b", None)
        taken.close()
        await machine.dialled.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", first + 1)
        _, other = await asyncio.open_connection("127.0.0.1", first + 1)
        other.write(b"hello ")
        await reader.readuntil(b"connected]")
        writer.write(b"world")
        async with asyncio.timeout(10):
            while len(machine.cables[0].typed) < 11:
                await asyncio.sleep(0.01)
        machine.cables[0].printed.put_nowait(b"answer")
        await reader.readuntil(b"answer")
        consoles.follow([Event(type="node.delete", node_uuid="a")])
        assert b"the console is closed" in await reader.read()
        with pytest.raises(NotFound):
            consoles.stream("a")
        for each in (writer, other):
            each.close()


@pytest.mark.parametrize("text", ["x", "1", "2:1", "0:5", "1:70000", "-1:4"])
def test_a_wrong_range_of_ports_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"console\.port_range"):
        port_range(text)
