"""Serial over LAN: the machine's serial port as numbered and acknowledged packets (IPMI 2.0 section 15).

`SolProtocol` is bytes and `now` in, packets out. `SolLine` is the shell around it on a session of the hub. Rules:

- What is typed goes in one packet at a time, repeated until it is acknowledged; what the BMC took only in part, or refused
  for now (NACK), is sent again from where it stopped. A packet that nobody acknowledges ends the line.
- What the machine prints comes through once, also when the BMC repeats a packet, or repeats it with more behind it.
- The console shares the BMC's session with everything else, so it costs no slot. When the session ends so does the line;
  opening another is the stream's business.
- In silence the BMC is asked now and then whether the payload is still ours.
"""

from __future__ import annotations

import asyncio
from typing import Final

from metald.console.line import LineEnded
from metald.drivers.ipmi.hub import IpmiHub
from metald.drivers.ipmi.info import BmcInfo
from metald.drivers.ipmi.link import Link
from metald.drivers.ipmi.refusal import CompletionCode
from metald.errors import BmcRefused, DriverError

_ACTIVATE: Final = (0x06, 0x48)
_DEACTIVATE: Final = (0x06, 0x49)
_ACTIVATION_STATUS: Final = (0x06, 0x4A)
_INSTANCE_INFO: Final = (0x06, 0x4B)
_PAYLOAD: Final = b"\x01\x01"  # type SOL, instance 1
_SECURE: Final = b"\xc0\x00\x00\x00"  # encrypted and authenticated
_ALREADY_ACTIVE: Final = 0x80
_REFUSALS: Final = {
    0x81: ("has Serial over LAN disabled", "Enable it on the BMC: `ipmitool sol set enabled true` for the LAN channel."),
    0x82: ("has no free Serial over LAN session", "End the other client's console."),
    0x83: ("cannot encrypt Serial over LAN", "Allow encrypted payloads in the BMC's settings."),
}

_NACK, _TAKEN_AWAY, _BREAK = 0x40, 0x10, 0x10
_RETRY = 1.0
_RETRY_REFUSED = 0.5
_TRIES = 6
_ACTIVATIONS = 3
_MOST_PENDING = 16 << 10
_HEADER = 4
_LEAST_SIZE, _USUAL_SIZE, _MOST_SIZE = 5, 68, 1024


class SolProtocol:
    """One activated SOL payload, seen from the remote console.

    Args:
        size: most bytes in a packet, its header of four included, as the BMC said; some say nonsense.
    """

    def __init__(self, size: int) -> None:
        self._most = believable(size) - _HEADER
        self.pending = bytearray()
        """What was typed and is not yet in a packet."""
        self.due: float | None = None
        """When `take` is wanted again."""
        self.lost = False
        """Nobody acknowledges."""
        self.deactivated = False
        """The BMC says that the payload is no longer ours."""
        self._acks: list[bytes] = []
        self._breaks = 0
        self._sent: bytes | None = None  # the characters under way
        self._operation = 0
        self._sequence = 0
        self._tries = 0
        self._seen = self._seen_length = 0
        self._refused_until = 0.0

    def write(self, data: bytes) -> None:
        """Type."""
        self.pending += data

    def send_break(self) -> None:
        """Ask for a break on the serial line."""
        self._breaks += 1

    def feed(self, payload: bytes, now: float) -> bytes:
        """Take a packet from the BMC (table 15-2); returns the new characters in it."""
        if len(payload) < 4:
            return b""
        sequence, acknowledged, accepted, status = payload[0] & 0x0F, payload[1] & 0x0F, payload[2], payload[3]
        if status & _TAKEN_AWAY:
            self.deactivated = True
        if self._sent is not None and acknowledged and acknowledged == self._sequence:
            self._acknowledged(accepted, now, refused=bool(status & _NACK))
        if not sequence:
            return b""
        text = payload[4:]
        fresh = text[self._seen_length :] if sequence == self._seen else text
        self._seen, self._seen_length = sequence, len(text)
        self._acks.append(bytes((0, sequence, len(text) & 0xFF, 0)))
        return bytes(fresh)

    def _acknowledged(self, accepted: int, now: float, *, refused: bool) -> None:
        assert self._sent is not None
        rest = self._sent[accepted:]
        self.pending[:0] = rest
        if refused and self._operation and not rest:
            self._breaks += 1
        self._sent, self.due = None, None
        self._refused_until = now + _RETRY_REFUSED if refused else 0.0

    def take(self, now: float) -> list[bytes]:
        """The packets to send now."""
        packets, self._acks = self._acks, []
        if self._sent is not None:
            if self.due is not None and now >= self.due:
                self._tries += 1
                if self._tries >= _TRIES:
                    self.lost, self.due = True, None
                    return packets
                self.due = now + _RETRY
                packets.append(self._packet())
        elif self.pending or self._breaks:
            if now < self._refused_until:
                self.due = self._refused_until
                return packets
            self._next()
            self.due = now + _RETRY
            packets.append(self._packet())
        else:
            self.due = None
        return packets

    def _next(self) -> None:
        self._sequence = self._sequence % 15 + 1  # 0 is no number
        self._tries = 0
        self._operation = _BREAK if self._breaks else 0
        if self._breaks:
            self._breaks -= 1
            self._sent = b""
        else:
            self._sent = bytes(self.pending[: self._most])
            del self.pending[: self._most]

    def _packet(self) -> bytes:
        assert self._sent is not None
        return bytes((self._sequence, 0, 0, self._operation)) + self._sent


def believable(size: int) -> int:
    """A BMC's own word for the size of a packet, or what it may have meant: some count bytes in the other order, some say none."""
    if size > _MOST_SIZE:
        size = int.from_bytes(size.to_bytes(2, "little"), "big")
    return size if _LEAST_SIZE <= size <= _MOST_SIZE else _USUAL_SIZE


class SolLine:
    """A console line over SOL; see `console.line.Line`. Made by `open_sol`."""

    def __init__(self, hub: IpmiHub, info: BmcInfo, link: Link, keepalive: float) -> None:
        self._hub, self._info, self._link, self._keepalive = hub, info, link, keepalive
        self._loop = asyncio.get_running_loop()
        self._protocol = SolProtocol(_USUAL_SIZE)
        self._received = bytearray()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = ""
        self._sid = 0

    async def activate(self) -> None:
        """Take the payload, from another client if need be.

        Raises:
            DriverError: the BMC does not answer, or does not give it.
        """
        for attempt in range(_ACTIVATIONS):
            try:
                answer = await self._hub.raw(self._info, *_ACTIVATE, _PAYLOAD + _SECURE, bridged=False)
            except CompletionCode as error:
                if error.completion != _ALREADY_ACTIVE or attempt == _ACTIVATIONS - 1:
                    raise self._refusal(error) from None
                await self._deactivate()
                continue
            session = self._link.session
            if len(answer) < 10 or session is None:
                break
            self._protocol = SolProtocol(int.from_bytes(answer[4:6], "little"))
            self._sid = session.sessionid
            self._ended = ""
            session.sol_handler = self._payload
            return
        raise BmcRefused(f"{self._info.label} did not open Serial over LAN.", remedy="Look at the BMC's settings of Serial over LAN.")

    def _refusal(self, error: CompletionCode) -> DriverError:
        known = _REFUSALS.get(error.completion)
        return error if known is None else BmcRefused(f"{self._info.label} {known[0]}.", remedy=known[1])

    # -- Line

    async def read(self) -> bytes:
        """See `Line.read`."""
        while not self._received:
            if self._ended:
                raise LineEnded(self._ended)
            self._ready.clear()
            try:
                async with asyncio.timeout(self._keepalive):
                    await self._ready.wait()
            except TimeoutError:
                await self._ask()
        data = bytes(self._received)
        self._received.clear()
        return data

    async def write(self, data: bytes) -> None:
        """See `Line.write`."""
        await self._room.wait()
        if not self._ended:
            self._protocol.write(data)
            self._pump()

    def send_break(self) -> None:
        """See `Line.send_break`."""
        if not self._ended:
            self._protocol.send_break()
            self._pump()

    async def close(self) -> None:
        """See `Line.close`."""
        owned = not self._ended and self._link.session is not None and self._link.session.sessionid == self._sid
        self._end("closed")
        if owned:
            await self._deactivate()
        if self._link.tenant is self:
            self._link.tenant = None

    # -- Tenant

    def session_ended(self) -> None:
        """See `link.Tenant`."""
        self._end("the BMC's session ended")

    # -- inside

    def _payload(self, payload: bytearray) -> None:
        self._received += self._protocol.feed(bytes(payload), self._loop.time())
        if self._received:
            self._ready.set()
        self._pump()

    def _pump(self) -> None:
        session, protocol = self._link.session, self._protocol
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if session is None or not session.established:
            return
        for packet in protocol.take(self._loop.time()):
            session.send_sol(packet)
        if protocol.lost:
            self._end("the BMC does not acknowledge what is typed")
        elif protocol.deactivated:
            self._end("the BMC gave the console to another client or closed it")
        elif protocol.due is not None:
            self._timer = self._loop.call_at(protocol.due, self._pump)
        if len(protocol.pending) < _MOST_PENDING:
            self._room.set()
        else:
            self._room.clear()

    def _end(self, cause: str) -> None:
        self._ended = self._ended or cause
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link.session is not None and self._link.session.sol_handler == self._payload:
            self._link.session.sol_handler = None
        self._ready.set()
        self._room.set()

    async def _ask(self) -> None:
        """See whether the console still stands; an end, or something printed, is answer enough and is not kept waiting."""
        asking = [asyncio.ensure_future(work) for work in (self._still_ours(), self._ready.wait())]
        try:
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)

    async def _still_ours(self) -> None:
        """Ask the BMC whose the payload is (section 24.5), or at least whether it is active (24.4)."""
        try:
            try:
                answer = await self._hub.raw(self._info, *_INSTANCE_INFO, _PAYLOAD, bridged=False)
            except CompletionCode:
                answer = b""
                status = await self._hub.raw(self._info, *_ACTIVATION_STATUS, _PAYLOAD[:1], bridged=False)
                if len(status) >= 2 and not status[1] & 1:
                    self._end("the BMC closed the console")
        except CompletionCode:
            return  # it knows neither command; that it answers must do
        except DriverError as error:
            self._end(error.message)
            return
        owner = int.from_bytes(answer[:4], "little")
        if len(answer) >= 4 and owner != self._sid:
            self._end("another client took the console" if owner else "the BMC closed the console")

    async def _deactivate(self) -> None:
        try:
            await self._hub.raw(self._info, *_DEACTIVATE, _PAYLOAD + bytes(4), bridged=False)
        except DriverError:
            return  # it was not active, or the BMC is gone


async def open_sol(hub: IpmiHub, info: BmcInfo, keepalive: float) -> SolLine:
    """Open the console of the machine behind a BMC.

    Args:
        hub: carries it.
        info: which BMC.
        keepalive: seconds of silence after which the BMC is asked whether the console still stands.

    Raises:
        DriverError: the BMC does not answer, or refuses; or another node's console is open on it.
    """
    link = await hub.link(info)
    if link.tenant is not None:
        raise BmcRefused(f"{info.label} carries a console already.", remedy="Two nodes have the same BMC: correct ipmi_address.")
    line = SolLine(hub, info, link, keepalive)
    link.tenant = line
    try:
        await line.activate()
    except BaseException:
        link.tenant = None
        raise
    return line
