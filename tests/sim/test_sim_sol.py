"""Serial over LAN of the simulated BMC: the protocol in memory, and the real ipmitool on a terminal."""

from __future__ import annotations

import asyncio
import os
import pty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.sim.sol import SIZE, Sol
from tests.support.bmc import ADMIN, simulated


def _ack(packet: bytes, accepted: int | None = None) -> bytes:
    return bytes((0, packet[0], len(packet) - 4 if accepted is None else accepted, 0))


@given(st.binary(min_size=1, max_size=3 * SIZE), st.lists(st.sampled_from(["ack", "lost packet", "lost ack", "half"]), max_size=40))
def test_everything_printed_arrives_once_whatever_is_lost(text: bytes, luck: list[str]) -> None:
    sol, now, seen, last = Sol(1), 0.0, b"", 0
    sol.write(text)
    fates = iter(luck)
    lost_in_a_row = 0
    while len(seen) < len(text):
        for packet in sol.take(now):
            fate = next(fates, "ack")
            lost_in_a_row = lost_in_a_row + 1 if fate.startswith("lost") else 0
            if fate == "lost packet" and lost_in_a_row < 4:
                continue
            took = max(1, len(packet[4:]) // 2) if fate == "half" else len(packet[4:])
            if packet[0] != last:
                seen, last = seen + packet[4 : 4 + took], packet[0]
            else:
                took = len(packet[4:])
            if fate == "lost ack" and lost_in_a_row < 4:
                continue
            sol.feed(_ack(packet, took))
        now += 0.6
    assert seen == text


def test_what_is_typed_counts_once_and_a_console_that_went_away_stops_nothing() -> None:
    sol = Sol(1)
    typed = bytes((1, 0, 0, 0)) + b"ls\r"
    assert sol.feed(typed) == b"ls\r"
    assert sol.feed(typed) == b""
    assert sol.take(0.0) == [bytes((0, 1, 3, 0))] * 2
    assert sol.feed(b"\x01") == b""
    sol.write(b"booting")
    assert sol.take(0.0)
    for second in range(1, 10):
        sol.take(float(second))
    assert sol.due is None
    sol.write(b"x" * (70 << 10))
    assert len(sol.take(20.0)) == 1


@pytest.mark.parametrize("suite", ["3", "17"])
async def test_ipmitool_reads_and_types_on_the_console(suite: str) -> None:
    async with simulated() as server:
        bmc = server.bmc
        bmc.power = True
        bmc.on_input = lambda typed: bmc.print(b"you typed " + typed.upper())
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *("ipmitool", "-I", "lanplus", "-H", server.address, "-p", str(server.port), "-U", ADMIN.name, "-P", ADMIN.password),
            *("-C", suite, "sol", "activate"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = _Terminal(ours)
        try:
            await said.until(b"SOL Session operational")
            bmc.print(b"Linux version 6.1\r\nsim-1 login: ")
            await said.until(b"sim-1 login: ")
            said.type(b"root")
            await said.until(b"ROOT")
            said.type(b"\r~.")
            await process.wait()
            assert bmc.sol is None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            said.close()


class _Terminal:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._said = bytearray()
        self._more = asyncio.Event()
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._readable)

    def _readable(self) -> None:
        try:
            self._said += os.read(self._descriptor, 4096)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._more.set()

    async def until(self, text: bytes) -> None:
        try:
            async with asyncio.timeout(15):
                while text not in self._said:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} did not come: {bytes(self._said)!r}") from None

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
