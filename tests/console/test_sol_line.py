"""SOL lines on the hub, against the simulator and against OpenIPMI's ipmi_sim with a serial port behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metald.console.line import Line, LineEnded
from metald.drivers.ipmi.client import Bmc
from metald.drivers.ipmi.hub import background
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.sol import open_sol
from metald.errors import BmcRefused, BmcUnreachable
from tests.support.bmc import ADMIN, OpenIpmi, PyghmiBmc, Simulated, hub, open_ipmi, pyghmi_bmc, simulated


class Serial:
    """The machine's serial port: what is typed comes back in capitals."""

    def __init__(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self.connected = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connected.set()
        try:
            while data := await reader.read(1000):
                writer.write(data.upper())
        finally:
            self._writers.discard(writer)
            writer.close()


@pytest.fixture(params=["simulator", "ipmi_sim", "pyghmi_bmc"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Simulated | OpenIpmi]:
    if request.param == "simulator":
        async with simulated() as started:
            started.bmc.power = True
            started.bmc.on_input = lambda typed: started.bmc.print(typed.upper())
            yield started
        return
    if request.param == "pyghmi_bmc":
        async with pyghmi_bmc(tmp_path) as started_bmc:
            (tmp_path / "power").write_text("1")
            yield started_bmc
        return
    serial = Serial()
    port = await asyncio.start_server(serial.serve, "127.0.0.1", 0)
    number = port.sockets[0].getsockname()[1]
    try:
        async with open_ipmi(tmp_path, lan=f'  sol "tcp:127.0.0.1:{number}" 115200\n') as started_sim:
            yield started_sim
    finally:
        port.close()


def coordinates(server: Simulated | OpenIpmi) -> BmcInfo:
    return BmcInfo(server.address, server.port, ADMIN.name, ADMIN.password)


async def seen(line: Line, text: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(15):
        while text not in found:
            found += await line.read()
    return found


async def to_the_end(line: Line) -> None:
    async with asyncio.timeout(15):
        while True:
            await line.read()


async def typed(line: Line, text: bytes) -> None:
    """ipmi_sim opens the serial port only with the console, and swallows what is typed before it has."""
    async with asyncio.timeout(20):
        while True:
            await line.write(text)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await seen(line, text.upper())
                    return


async def test_what_is_typed_comes_back_and_commands_go_on_beside_it(server: Simulated | OpenIpmi) -> None:
    async with hub() as started:
        line = await open_sol(started, coordinates(server), 5.0)
        await typed(line, b"hello")
        long = bytes(97 + n % 26 for n in range(3000)) + b"!"
        writing = asyncio.create_task(line.write(long))
        power = [await Bmc(started, coordinates(server)).power_is_on() for _ in range(5)]
        with background():
            power.append(await Bmc(started, coordinates(server)).power_is_on())
        found = await seen(line, b"!")
        await writing
        assert long.upper() in found
        assert len(set(power)) == 1
        line.send_break()
        assert started.sessions == 1
        await line.close()
        await line.close()


async def test_a_console_is_taken_over_from_another_client(server: Simulated | OpenIpmi) -> None:
    if isinstance(server, PyghmiBmc):
        pytest.skip("it cannot tell whose its console is")
    async with hub() as one, hub() as two:
        first = await open_sol(one, coordinates(server), 0.2)
        await typed(first, b"mine")
        second = await open_sol(two, coordinates(server), 5.0)
        await typed(second, b"now mine")
        await second.close()
        with pytest.raises(LineEnded, match="console"):
            await to_the_end(first)
        await first.close()


async def test_one_console_per_bmc(server: Simulated | OpenIpmi) -> None:
    async with hub() as started:
        line = await open_sol(started, coordinates(server), 5.0)
        with pytest.raises(BmcRefused, match="carries a console already"):
            await open_sol(started, coordinates(server), 5.0)
        await line.close()
        again = await open_sol(started, coordinates(server), 5.0)
        await again.close()


async def test_a_bmc_that_restarts_ends_the_line_and_another_can_be_opened() -> None:
    async with simulated() as server, hub() as started:
        server.bmc.power = True
        server.bmc.on_input = lambda text: server.bmc.print(text.upper())
        line = await open_sol(started, coordinates(server), 0.1)
        await typed(line, b"before")
        server.bmc.restart()
        with pytest.raises(LineEnded, match="session ended"):
            await to_the_end(line)
        await line.close()
        line = await open_sol(started, coordinates(server), 5.0)
        await typed(line, b"after")
        await line.close()


async def test_a_dead_bmc_ends_the_line_by_silence() -> None:
    async with simulated() as server, hub(command_timeout=0.3, login_timeout=0.2) as started:
        line = await open_sol(started, coordinates(server), 0.1)
        server.bmc.faults.dead = True
        with pytest.raises(LineEnded):
            async with asyncio.timeout(15):
                await line.read()
        await line.close()
        with pytest.raises(BmcUnreachable):
            await open_sol(started, coordinates(server), 5.0)


async def test_loss_is_not_noticed() -> None:
    async with simulated(seed=3) as server, hub(command_timeout=10.0) as started:
        server.bmc.power = True
        server.bmc.on_input = lambda text: server.bmc.print(text.upper())
        line = await open_sol(started, coordinates(server), 5.0)
        server.bmc.faults.loss = 0.1
        await line.write(b"abc" * 200)
        found = b""
        async with asyncio.timeout(30):
            while len(found) < 600:
                found += await line.read()
        assert found == b"ABC" * 200
        server.bmc.faults.loss = 0.0
        await line.close()


@pytest.mark.parametrize(("code", "words"), [(0x81, "disabled"), (0x82, "no free"), (0x83, "encrypt"), (0xC1, "invalid command")])
async def test_a_refusal_is_said_in_words(code: int, words: str) -> None:
    async with simulated() as server, hub() as started:
        server.bmc.faults.refuse = {"06:48": code}
        with pytest.raises(BmcRefused, match=f"(?i){words}"):
            await open_sol(started, coordinates(server), 5.0)
        server.bmc.faults.refuse.clear()
        await (await open_sol(started, coordinates(server), 5.0)).close()


async def test_a_dead_bmc_is_told_of_before_anybody_has_waited_for_its_login() -> None:
    async with simulated() as server, hub(command_timeout=600.0, login_timeout=600.0) as started:
        server.bmc.power = True
        line = await open_sol(started, coordinates(server), 0.1)
        server.bmc.faults.dead = True
        with pytest.raises(LineEnded, match="session ended"):
            await to_the_end(line)
        await line.close()
        assert started.window.taken == 0
