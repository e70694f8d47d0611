"""The TFTP server: takes requests, looks them up in the virtual tree, and runs one transfer per client port.

Rules: read-only. One socket per transfer, connected to the client and bound to the address the client asked; with
`boot.tftp_single_port` all goes through the socket that was asked. Nothing
is served but what `BootFiles.find` names. Transfers are counted, in all and per client; a request over the limit gets
no answer, so that the client's next try may find room. Every transfer ends, and is then reported once; its socket and
timer go with it. All waiting is in the loop: no task per transfer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from metald.boot.directory import BootDirectory
from metald.boot.files import Absent, BootFiles, Found, shown
from metald.boot.fills import Remote
from metald.boot.listen import parse_listen, plain
from metald.boot.render import Asker
from metald.boot.tftp import packet, wire
from metald.boot.tftp.contents import Content, Contents
from metald.boot.tftp.pace import Pace
from metald.boot.tftp.packet import Code, Request
from metald.boot.tftp.session import Session
from metald.boot.tftp.transfer import DEFAULT_BLKSIZE, Transfer, negotiate
from metald.boot.tftp.wire import Arrival, Listener
from metald.config import Settings
from metald.errors import MetaldError, NotAllowed, NotFound

MAX_NETASCII = 1 << 20
_AT_ONCE = 16
"""Requests that are taken from one socket before the loop turns to others."""

_REPORT_GRACE = 2.0

_log = logging.getLogger(__name__)


class TftpServer:
    """The server. `start` binds, so that root can be dropped after it; `close` ends what still runs."""

    def __init__(self, directory: BootDirectory, files: BootFiles, settings: Settings) -> None:
        boot = settings.boot
        self._directory = directory
        self._files = files
        self._listen = parse_listen(boot.tftp_listen, "boot.tftp_listen")
        self._most = boot.tftp_transfers
        self._most_per_client = boot.tftp_transfers_per_client
        self._window = boot.tftp_window
        self._single_port = boot.tftp_single_port
        self.pace = Pace(boot.tftp_bandwidth, boot.tftp_bandwidth_per_client)
        self._contents = Contents()
        self._listeners: list[Listener] = []
        self._sessions: dict[wire.Address, Session] = {}
        self._per_client: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_full = False
        self.ended: Counter[str] = Counter()
        """Transfers that ended, as `sent` or `failed`."""
        self.bytes = 0
        """Bytes of files that were sent and acknowledged."""
        self.retransmits = 0
        self._ears: wire.Ears | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.address for listener in self._listeners]

    @property
    def transfers(self) -> int:
        """How many transfers run."""
        return len(self._sessions)

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: an address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._ears = wire.Ears()
        try:
            for host, port in self._listen:
                listener = Listener(host, port)
                self._listeners.append(listener)
                loop.add_reader(listener.fileno(), self._readable, listener)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and end every transfer."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for session in list(self._sessions.values()):
            session.end("the server stopped")
        if self._ears is not None:
            self._ears.close()
            self._ears = None
        self._contents.close()
        if self._tasks:
            # The reports of what was just ended still go out.
            _, late = await asyncio.wait(self._tasks, timeout=_REPORT_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _readable(self, listener: Listener) -> None:
        for _ in range(_AT_ONCE):
            try:
                arrival = listener.receive()
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error for an answer that went out
                _log.debug("TFTP: %s", error)
                continue
            if arrival is not None:
                self._arrived(listener, arrival)

    def _arrived(self, listener: Listener, arrival: Arrival) -> None:
        if self._single_port and arrival.data[:2] in (b"\0\4", b"\0\5"):
            session = self._sessions.get(arrival.peer)
            if session is not None:
                session.heard(arrival.data)
            return
        try:
            request = packet.parse(arrival.data)
        except packet.Malformed as error:
            # Whoever sends an error must not get one back: two servers would go on for ever.
            if arrival.data[:2] in (b"\0\1", b"\0\2"):
                self._refuse(listener, arrival, "", Code.ILLEGAL, f"Illegal TFTP operation: {error}.")
            return
        if not isinstance(request, Request) or not self._is_new(arrival):
            return
        if request.write:
            self._refuse(listener, arrival, request.name, Code.ACCESS, "This server is read-only.")
        elif request.mode not in ("octet", "netascii"):
            self._refuse(listener, arrival, request.name, Code.ILLEGAL, "The mode must be octet or netascii.")
        elif self._has_room(arrival):
            self._look_up(listener, arrival, request)

    def _is_new(self, arrival: Arrival) -> bool:
        """Whether it is no repetition. A client that starts over from the same port ends what it asked before.

        Under load a request may have been repeated before its first answer and be read after it: that is no new start.
        """
        running = self._sessions.get(arrival.peer)
        if running is None:
            return True
        if running.request == arrival.data and (running.lively or not running.begun):
            return False
        running.end("the client started over")
        return True

    def _has_room(self, arrival: Arrival) -> bool:
        full = len(self._sessions) >= self._most
        if full and not self._was_full:
            _log.warning("TFTP: %d transfers run, more clients must wait (boot.tftp_transfers)", self._most)
        self._was_full = full
        return not full and self._per_client[arrival.peer[0]] < self._most_per_client

    def _look_up(self, listener: Listener, arrival: Arrival, request: Request) -> None:
        try:
            found = self._files.find(request.name, Asker(self._base_url(arrival), client=plain(arrival.peer[0])))
        except Absent as error:
            listener.answer(arrival, packet.encode(packet.Error(Code.NOT_FOUND, str(error))))
            self.report(arrival, shown(request.name), None, {"bytes": 0, "probe": "absent"})
            return
        except MetaldError as error:
            self._failed(listener, arrival, request.name, error)
            return
        if found.unknown:
            self._directory.seen(
                "boot.unknown", node_uuid=None, data={"client": plain(arrival.peer[0]), "mac": [*found.unknown], "file": found.name}
            )
        session = Session(self, arrival, found.name, found.node_uuid, found.error)
        self._sessions[arrival.peer] = session
        self._per_client[arrival.peer[0]] += 1
        content = self._at_hand(found)
        if content is not None:
            self._serve(listener, session, request, content)
        else:
            self._spawn(self._load(listener, session, request, found))

    def _base_url(self, arrival: Arrival) -> str:
        try:
            return self._files.urls.base(plain(arrival.local[0]))
        except NotFound:
            # Loaders are served without a boot HTTP server too; a script then leads to somebody else's.
            return f"http://{plain(arrival.local[0])}"

    def _at_hand(self, found: Found) -> Content | None:
        if isinstance(found.content, str):
            return Content(found.content.encode())
        return self._contents.ready(found.content) if isinstance(found.content, Path) else None

    async def _load(self, listener: Listener, session: Session, request: Request, found: Found) -> None:
        try:
            if isinstance(found.content, Remote):
                content = await self._contents.load(await self._files.fills.local(found.content))
            elif isinstance(found.content, Path):
                content = await self._contents.load(found.content)
            else:
                raise NotFound("Boot images are had by HTTP.")
        except MetaldError as error:
            self._failed(listener, session.arrival, session.name, error)
            session.drop()
            return
        except (OSError, TimeoutError) as error:
            _log.warning("TFTP: %s cannot be read: %s", found.name, error)
            self._refuse(listener, session.arrival, session.name, Code.UNDEFINED, "The file cannot be read.")
            session.drop()
            return
        if not session.over:
            self._serve(listener, session, request, content)

    def _serve(self, listener: Listener, session: Session, request: Request, content: Content) -> None:
        """Settle the options and send the first datagram."""
        if request.mode == "netascii":
            if len(content.data) > MAX_NETASCII:
                self._refuse(listener, session.arrival, session.name, Code.UNDEFINED, "Too large for netascii; ask in mode octet.")
                session.drop()
                return
            content = Content(packet.to_netascii(content.data))
        try:
            path = wire.SharedPath(session.arrival, listener) if self._single_port else wire.Path(session.arrival)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                _log.warning("TFTP: no file descriptor left for another transfer; raise the limit or lower boot.tftp_transfers")
            else:
                self.report(session.arrival, session.name, session.node_uuid, {"error": f"no way to the client: {error.strerror}"})
            session.drop()
            return
        try:
            agreed = negotiate(request.options, len(content.data), max_blksize=path.max_blksize(), max_window=self._window)
            if agreed.windowsize > 1 and agreed.blksize >= DEFAULT_BLKSIZE:
                path.segment(agreed.blksize + 4)
            session.begin(path, Transfer(content.blocks(agreed.blksize), agreed), agreed)
        except BaseException:
            session.drop()
            path.close()
            raise

    @property
    def ears(self) -> wire.Ears:
        """Where sessions have their sockets heard."""
        assert self._ears is not None
        return self._ears

    def forget(self, session: Session) -> None:
        """A session is over."""
        peer = session.arrival.peer
        if self._sessions.get(peer) is session:
            del self._sessions[peer]
        self._per_client[peer[0]] -= 1
        if not self._per_client[peer[0]]:
            del self._per_client[peer[0]]
            self.pace.forget(peer[0])

    def _failed(self, listener: Listener, arrival: Arrival, name: str, error: MetaldError) -> None:
        code = Code.ACCESS if isinstance(error, NotAllowed) else Code.NOT_FOUND if isinstance(error, NotFound) else Code.UNDEFINED
        self._refuse(listener, arrival, name, code, str(error))

    def _refuse(self, listener: Listener, arrival: Arrival, name: str, code: Code, message: str) -> None:
        listener.answer(arrival, packet.encode(packet.Error(code, message)))
        self.report(arrival, shown(name), None, {"bytes": 0, "error": f"{message} (error {int(code)})"})

    def report(self, arrival: Arrival, name: str, node_uuid: str | None, facts: dict[str, Any]) -> None:
        """Tell the directory of one request."""
        self.ended["failed" if facts.get("error") else "sent"] += 1
        self.bytes += facts.get("bytes", 0)
        self.retransmits += facts.get("retransmits", 0)
        clients = self._files.clients
        client = plain(arrival.peer[0])
        if node_uuid is not None:
            clients.learn(client, node_uuid)
        self._directory.seen("node.tftp", node_uuid=node_uuid or clients.node_of(client), data={"client": client, "file": name, **facts})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
