"""Simulated BMCs on the network: many behind one UDP socket, or one on an address of its own.

    python -m metald.sim.bmc --count 1000 --base 127.20.0.0 --loss 0.05 --seed 7

Rules:

- Many: one socket on all addresses of the loopback device (SO_BINDTODEVICE, so nothing else can reach it); the address
  that a datagram was sent to (IP_PKTINFO) says which BMC it is for, and is where its answer comes from.
- Chance (loss) comes from each BMC's own seeded generator: what happens to one does not depend on the others.
- As a process it prints one JSON line when it is ready, then reads commands from its standard input, one per line, and
  answers each with one JSON line; it ends when the input ends, so that it never outlives a test. Commands:

    counters [ADDRESS]        what each BMC counted; without an address the sum of all
    faults ADDRESS|all JSON   change fields of `Faults`, as in {"loss": 0.05}
    power ADDRESS|all on|off  change the machine's power behind the BMC's back
    restart ADDRESS|all       the BMC forgets its sessions
    quit                      end

  SIGUSR1 prints the sum of the counters too. With --events each effect is a line of its own, which has the key `event`.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from metald.sim.chassis import Change, SimBmc
from metald.sim.rmcp import User

_IP_PKTINFO = 8
_SO_BINDTODEVICE = 25
_SO_RCVBUFFORCE = 33
_DRAIN = 64
_BUFFER = 16 << 20


class Fleet:
    """BMCs and the one socket that they are behind. An async context manager.

    Args:
        bmcs: one BMC is bound to its own address (IPv4 or IPv6); several must have addresses in 127.0.0.0/8, and
            need CAP_NET_RAW.
        port: UDP port of all of them; 0 takes a free one, see `port` after the start.
    """

    def __init__(self, bmcs: Iterable[SimBmc], *, port: int = 0) -> None:
        self.bmcs = {bmc.address: bmc for bmc in bmcs}
        self.port = port
        self._by_packed = {ipaddress.ip_address(address).packed: bmc for address, bmc in self.bmcs.items()}
        self._shared = len(self.bmcs) > 1
        self._sock: socket.socket | None = None
        self._timers: dict[SimBmc, asyncio.TimerHandle] = {}
        self._repeats: dict[SimBmc, asyncio.TimerHandle] = {}
        self._consoles: dict[SimBmc, tuple[list[tuple[int, int, bytes]], Any]] = {}
        self._again: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Fleet:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Open the socket and answer from now on."""
        self._loop = asyncio.get_running_loop()
        address = "0.0.0.0" if self._shared else next(iter(self.bmcs))  # noqa: S104 - bound to the loopback device
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if self._shared:
                sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"lo\0")
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
                    break
            sock.setblocking(False)
            sock.bind((address, self.port))
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        self._sock = sock
        for bmc in self.bmcs.values():
            bmc.on_output, bmc.port = self._console, self.port
        self._loop.add_reader(sock, self._readable)

    async def close(self) -> None:
        """Fall silent."""
        for timer in (*self._timers.values(), *self._repeats.values()):
            timer.cancel()
        self._timers.clear()
        self._repeats.clear()
        self._consoles.clear()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def report(self) -> dict[str, Any]:
        """The sum of all BMCs' counters; `power` is how many are on."""
        total: Counter[str] = Counter()
        for bmc in self.bmcs.values():
            total.update({key: value for key, value in bmc.report().items() if isinstance(value, int)})
            total["power"] += bmc.power
        return dict(total)

    def _readable(self) -> None:
        if self._sock is None:
            return
        self._again = None
        sole = None if self._shared else next(iter(self.bmcs.values()))
        for _ in range(_DRAIN):
            try:
                data, ancillary, _, peer = self._sock.recvmsg(2048, 64)
            except BlockingIOError:
                return
            except OSError:
                continue
            bmc = sole
            answer_from: list[tuple[int, int, bytes]] = []
            if bmc is None and ancillary:
                own = ancillary[0][2][8:12]
                bmc = self._by_packed.get(own)
                answer_from = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, own, bytes(4)))]
            if bmc is not None:
                self._serve(bmc, data, answer_from, peer)
        self._again = self._again or self._loop.call_soon(self._readable)  # BMCs answer whatever else the machines are at

    def _serve(self, bmc: SimBmc, data: bytes, answer_from: list[tuple[int, int, bytes]], peer: Any) -> None:
        faults = bmc.faults
        if faults.dead or (faults.loss and bmc.rng.random() < faults.loss):
            return
        answer = bmc.handle(data, self._loop.time())
        if bmc.due is not None and bmc not in self._timers:
            self._timers[bmc] = self._loop.call_at(bmc.due, self._settle, bmc)
        if bmc.sol is not None and bmc.server.spoke is not None and bmc.server.spoke.sid == bmc.sol.sid:
            self._consoles[bmc] = (answer_from, peer)
            self._loop.call_soon(self._console, bmc)  # after the answer
        if answer is None or (faults.loss and bmc.rng.random() < faults.loss):
            return
        if faults.delay:
            self._loop.call_later(faults.delay, self._send, answer, answer_from, peer)
        else:
            self._send(answer, answer_from, peer)

    def _console(self, bmc: SimBmc) -> None:
        """Send what the console is to get, and come back for what is not acknowledged."""
        where = self._consoles.get(bmc)
        if where is None or self._sock is None:
            return
        for datagram in bmc.take_console(self._loop.time()):
            if not bmc.faults.dead and not (bmc.faults.loss and bmc.rng.random() < bmc.faults.loss):
                self._send(datagram, *where)
        timer = self._repeats.pop(bmc, None)
        if timer is not None:
            timer.cancel()
        if bmc.sol is None:
            del self._consoles[bmc]
        elif bmc.sol.due is not None:
            self._repeats[bmc] = self._loop.call_at(bmc.sol.due, self._console, bmc)

    def _settle(self, bmc: SimBmc) -> None:
        del self._timers[bmc]
        bmc.settle(self._loop.time() + 0.001)
        if bmc.due is not None:
            self._timers[bmc] = self._loop.call_at(bmc.due, self._settle, bmc)

    def _send(self, answer: bytes, answer_from: list[tuple[int, int, bytes]], peer: Any) -> None:
        if self._sock is not None:
            with suppress(OSError):  # a full buffer loses datagrams, as a network does
                self._sock.sendmsg([answer], answer_from, 0, peer)


def addresses(base: str, count: int) -> list[str]:
    """`count` addresses from the one after `base` on."""
    first = ipaddress.ip_address(base)
    return [str(first + 1 + index) for index in range(count)]


def build(count: int, base: str, *, on_change: Change | None = None, **arguments: Any) -> list[SimBmc]:
    """`count` equal BMCs at consecutive addresses; `arguments` as for `SimBmc`."""
    return [SimBmc(address, on_change=on_change, **arguments) for address in addresses(base, count)]


def execute(fleet: Fleet, line: str) -> dict[str, Any]:
    """One command of the control line; an answer with `error` when it makes no sense."""
    word, _, rest = line.strip().partition(" ")
    where, _, argument = rest.strip().partition(" ")
    chosen = list(fleet.bmcs.values()) if where in ("all", "") else [bmc for bmc in (fleet.bmcs.get(where),) if bmc]
    if not chosen:
        return {"error": f"no BMC at {where}"}
    if word == "counters":
        return chosen[0].report() if where and where != "all" else fleet.report()
    if word == "restart":
        for bmc in chosen:
            bmc.restart()
    elif word == "power" and argument in ("on", "off"):
        for bmc in chosen:
            bmc.set_power(argument == "on")
    elif word == "faults":
        try:
            for name, value in json.loads(argument).items():
                for bmc in chosen:
                    setattr(bmc.faults, name, value)
        except (ValueError, AttributeError) as error:
            return {"error": str(error)}
    else:
        return {"error": f"unknown command {word!r}"}
    return {"ok": len(chosen)}


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _tell(bmc: SimBmc, effect: str) -> None:
    _say({"event": effect, "address": bmc.address})


async def _run(arguments: argparse.Namespace) -> None:
    users = (User(arguments.user, arguments.password, arguments.privilege),)
    kg = bytes.fromhex(arguments.kg) if arguments.kg else None
    suites = tuple(int(word) for word in arguments.suites.split(","))
    common: dict[str, Any] = {"users": users, "kg": kg, "suites": suites, "slots": arguments.slots, "seed": arguments.seed}
    bmcs = build(arguments.count, arguments.base, on_change=_tell if arguments.events else None, **common)
    for index, bmc in enumerate(bmcs):
        bmc.faults.loss, bmc.faults.delay, bmc.faults.power_delay = arguments.loss, arguments.delay, arguments.power_delay
        bmc.faults.dead = index % 100 < arguments.dead
    async with Fleet(bmcs, port=arguments.port) as fleet:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: _say(fleet.report()))
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        _say({"port": fleet.port, "count": len(bmcs), "first": bmcs[0].address, "last": bmcs[-1].address})
        while line := (await reader.readline()).decode(errors="replace").strip():
            if line == "quit":
                break
            _say(execute(fleet, line))


def main() -> None:
    """Run a fleet of BMCs until the standard input ends."""
    parser = argparse.ArgumentParser(prog="metald.sim.bmc", description="Simulated IPMI 2.0 BMCs on loopback addresses.")
    parser.add_argument("--count", type=int, default=1, help="how many BMCs")
    parser.add_argument("--base", default="127.20.0.0", help="the first BMC is at the address after this one")
    parser.add_argument("--port", type=int, default=0, help="UDP port; 0 takes a free one")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", default="secret")
    parser.add_argument("--privilege", type=int, default=4, help="the user's highest privilege level, 1 to 4")
    parser.add_argument("--kg", default="", help="Kg key in hexadecimal")
    parser.add_argument("--suites", default="3,17", help="cipher suites")
    parser.add_argument("--slots", type=int, default=5, help="sessions per BMC")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss", type=float, default=0.0, help="share of datagrams lost, each way")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--power-delay", type=float, default=0.0, help="seconds that a power change takes")
    parser.add_argument("--dead", type=int, default=0, help="percentage of BMCs that never answer")
    parser.add_argument("--events", action="store_true", help="print a line for each effect")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
