"""A TFTP client as a boot ROM is one (RFC 1350, 2347, 2348, 7440): without input or output, and its asyncio shell."""

from __future__ import annotations

import asyncio

from metald.boot.tftp import packet
from metald.boot.tftp.packet import Ack, Data, Error, OptionAck, Request


class Client:
    """Fetches a file. Acknowledges the last block of a window, and the last good block when one is missing.

    Args:
        name: of the file.
        mode: of the transfer.
        timeout: seconds until what was sent last is sent again; after six times it is an error.
        keep: whether the bytes are kept, or only counted.
        options: of RFC 2348, 2349 and 7440, by name.
    """

    def __init__(self, name: str, *, mode: str = "octet", timeout: float = 2.0, keep: bool = True, **options: int) -> None:
        self.data = bytearray()
        self.size = 0
        self.done = False
        self.error = ""
        self.agreed: dict[str, str] = {}
        self.server: tuple[str, int] | None = None
        """Where the data came from."""
        self.deadline = 0.0
        self._request = packet.encode(Request(name, mode, {key: str(value) for key, value in options.items()}))
        self._timeout = timeout
        self._keep = keep
        self._last = self._request
        self._tries = 0
        self._blksize, self._window = 512, 1
        self._block = 0
        self._unacked = 0
        self._gap = False

    def begin(self, now: float) -> list[bytes]:
        """Ask for the file."""
        return self._arm(self._request, now)

    def expire(self, now: float) -> list[bytes]:
        """What to repeat when nothing came in time."""
        if self.done or self.error or now < self.deadline:
            return []
        self._tries += 1
        if self._tries > 6:
            self.error = "silence"
            return []
        self._gap = False
        return self._arm(self._last, now)

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        """What to answer to a datagram."""
        if self.error:
            return []
        match packet.parse(datagram):
            case Error(code, message):
                self.error = f"{code} {message}"
            case OptionAck(options):
                if self._block == 0 and not self._unacked:
                    self.agreed = dict(options)
                    self._blksize = int(options.get("blksize", 512))
                    self._window = int(options.get("windowsize", 1))
                    return self._arm(packet.encode(Ack(0)), now)
            case Data(number, payload):
                return self._data(number, payload, now)
        return []

    def _data(self, number: int, payload: bytes, now: float) -> list[bytes]:
        if self.done:
            return [self._last]
        if number != (self._block + 1) & 0xFFFF:
            if (self._block - number) & 0xFFFF < 0x8000:
                # A block that is here already: its acknowledgement was lost, if it was the last one acknowledged.
                return [self._last] if number == self._block & 0xFFFF and not self._unacked and self._block else []
            # RFC 7440 section 4: a block is missing; tell the last good one, once per gap.
            if self._gap or self._window == 1:
                return []
            self._gap = True
            self._unacked = 0
            return self._arm(packet.encode(Ack(self._block & 0xFFFF)), now)
        self._gap = False
        self._tries = 0
        self._block += 1
        self._unacked += 1
        self.size += len(payload)
        if self._keep:
            self.data += payload
        self.done = len(payload) < self._blksize
        self._last = packet.encode(Ack(self._block & 0xFFFF))
        self.deadline = now + self._timeout
        if self.done or self._unacked >= self._window:
            self._unacked = 0
            return [self._last]
        return []

    def _arm(self, datagram: bytes, now: float) -> list[bytes]:
        self._last = datagram
        self.deadline = now + self._timeout
        return [datagram]


class _Shell(asyncio.DatagramProtocol):
    def __init__(self, client: Client, server: tuple[str, int]) -> None:
        self._client, self._server = client, server
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.peer: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send(self._client.begin(self._loop.time()))
        self._tick()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.peer = self.peer or addr
        if addr == self.peer:
            self._send(self._client.receive(data, self._loop.time()))
        self._check()

    def error_received(self, exc: Exception) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._timer.cancel()

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self._transport.sendto(datagram, self.peer or self._server)  # type: ignore[attr-defined]

    def _tick(self) -> None:
        self._send(self._client.expire(self._loop.time()))
        self._check()
        self._timer = self._loop.call_later(0.25, self._tick)

    def _check(self) -> None:
        if (self._client.done or self._client.error) and not self.ended.done():
            self.ended.set_result(None)


async def fetch(
    server: tuple[str, int],
    name: str,
    *,
    source: str = "",
    mode: str = "octet",
    timeout: float = 2.0,
    keep: bool = True,
    **options: int,
) -> Client:
    """Run a client against a server until it ends; `source` is the address that it asks from.

    Raises:
        TimeoutError: it did not end within a minute.
    """
    client = Client(name, mode=mode, timeout=timeout, keep=keep, **options)
    loop = asyncio.get_running_loop()
    local = (source or ("::1" if ":" in server[0] else "0.0.0.0"), 0)  # noqa: S104 - any address of our own
    transport, shell = await loop.create_datagram_endpoint(lambda: _Shell(client, server), local_addr=local)
    try:
        async with asyncio.timeout(60):
            await shell.ended
    finally:
        transport.close()
    client.server = shell.peer
    return client
