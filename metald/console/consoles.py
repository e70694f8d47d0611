"""The consoles that are enabled, by node; and the tokens that let a browser in.

Rules: a console's tasks are owned here and end with it; a token is for one node and a short time, made of a secret that lives
as long as the daemon, and compared in constant time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from metald.config import ConfigError
from metald.config import Console as Settings
from metald.console.line import Dial
from metald.console.logs import ConsoleLogs
from metald.console.screens import Screens
from metald.console.stream import ConsoleStream
from metald.console.tcp import TcpConsole
from metald.errors import Conflict, NotAllowed, NotFound
from metald.model import Event


class _Open:
    """An enabled console and what it holds."""

    __slots__ = ("stream", "task", "tcp")

    def __init__(self, stream: ConsoleStream, task: asyncio.Task[None]) -> None:
        self.stream, self.task = stream, task
        self.tcp: TcpConsole | None = None


class Consoles:
    """All consoles of the daemon. An async context manager: leaving it closes them.

    Args:
        settings: sizes, times and addresses.
        state_dir: the logs are in `console` below it.
    """

    def __init__(self, settings: Settings, state_dir: Path) -> None:
        self.settings = settings
        self.directory = state_dir / "console"
        self.logs = ConsoleLogs(self.directory, settings.log_size, settings.log_files)
        self.screens = Screens()
        self._ports = port_range(settings.port_range)
        self._open: dict[str, _Open] = {}
        self._secret = secrets.token_bytes(32)
        self._closing: set[asyncio.Future[None]] = set()
        self._logger: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Consoles:
        self._logger = asyncio.create_task(self.logs.run(), name="console logs")
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in list(self._open):
            await self.close(node)
        await self.screens.close_all()
        if self._closing:
            await asyncio.wait(self._closing)
        if self._logger is not None:
            self._logger.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._logger

    def __len__(self) -> int:
        return len(self._open)

    def streams(self) -> Iterable[ConsoleStream]:
        """Every enabled console."""
        return [found.stream for found in self._open.values()]

    def open(self, node: str, label: str, dial: Dial) -> ConsoleStream:
        """Enable a node's console; one that is enabled already stays as it is."""
        found = self._open.get(node)
        if found is not None:
            return found.stream
        settings = self.settings
        record = self._recorder(node) if settings.log else _nothing
        stream = ConsoleStream(
            label,
            dial,
            scrollback=settings.scrollback,
            most_readers=settings.readers,
            longest_pause=settings.reconnect_pause,
            record=record,
        )
        self._open[node] = _Open(stream, asyncio.create_task(stream.run(), name=f"console of {label}"))
        return stream

    async def listen(self, node: str, port: int | None, *, prefer: int | None = None) -> None:
        """Let people in to a node's console over TCP, at `port` or at a free one of the range, `prefer` if it is free.

        Raises:
            NotFound: the console is not enabled.
            Conflict: the port, or the whole range, is taken.
        """
        found = self._found(node)
        if found.tcp is not None:
            return
        candidates = [port] if port is not None else [number for number in (prefer,) if number in self._ports] + list(self._ports)
        for number in candidates:
            assert number is not None
            server = TcpConsole(found.stream, self.settings.tcp_host, number)
            try:
                await server.start()
            except OSError:
                continue
            found.tcp = server
            return
        raise Conflict(
            f"There is no free TCP port for the console of {found.stream.label}.",
            remedy="Set ipmi_terminal_port to a free port, or widen console.port_range.",
        )

    def follow(self, events: Iterable[Event]) -> None:
        """Take note of what happened: the console of a node that is no more is closed. For `Store.subscribe`."""
        self.screens.follow(events)
        for event in events:
            if event.type == "node.delete" and event.node_uuid in self._open:
                task = asyncio.ensure_future(self.close(event.node_uuid))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self, node: str) -> None:
        """Disable a node's console; nothing when it is not enabled."""
        found = self._open.pop(node, None)
        if found is None:
            return
        found.task.cancel()
        await asyncio.wait([found.task])
        if found.tcp is not None:
            await found.tcp.close()

    def stream(self, node: str) -> ConsoleStream:
        """A node's console.

        Raises:
            NotFound: it is not enabled.
        """
        return self._found(node).stream

    def _found(self, node: str) -> _Open:
        found = self._open.get(node)
        if found is None:
            raise NotFound(f"The console of node {node} is not enabled.", remedy="Enable it: `baremetal node console enable`.")
        return found

    def tcp_port(self, node: str) -> int | None:
        """The TCP port of a node's console."""
        found = self._open.get(node)
        return found.tcp.port if found is not None and found.tcp is not None else None

    def tcp_url(self, node: str) -> str | None:
        """Where the console is over TCP."""
        found = self._open.get(node)
        return found.tcp.url if found is not None and found.tcp is not None else None

    def socket_path(self, node: str) -> str:
        """Path and query of the WebSocket on the API's address, with a token that is good for a while."""
        return f"/v1/console/{node}?token={self._token(node)}"

    def screen_path(self, node: str) -> str:
        """Path and query of the page that shows a node's screen, on the API's address, with such a token.

        The page and noVNC are told in `path` where the WebSocket is.
        """
        return f"/v1/screen?path={quote(f'v1/screen/{node}?token={self._token(node)}', safe='')}"

    def _token(self, node: str) -> str:
        expires = int(time.time() + self.settings.token_lifetime)
        return f"{expires}.{self._sign(node, expires)}"

    def check(self, node: str, token: str) -> None:
        """Check a token of `socket_path`.

        Raises:
            NotAllowed: it is not one for this node, or its time is over.
        """
        expires, _, signature = token.partition(".")
        if not expires.isascii() or not expires.isdigit() or len(expires) > 12:
            expires = "0"
        good = hmac.compare_digest(signature.encode(), self._sign(node, int(expires)).encode())
        if not good or int(expires) < time.time():
            raise NotAllowed(
                "The console's token is wrong or its time is over.", remedy="Ask for the console's address again.", field="token"
            )

    def _sign(self, node: str, expires: int) -> str:
        return hmac.new(self._secret, f"{node} {expires}".encode(), hashlib.sha256).hexdigest()

    def _recorder(self, node: str) -> Callable[[bytes], None]:
        return lambda data: self.logs.add(node, data)


def _nothing(_data: bytes) -> None:
    """Keep no log."""


def port_range(text: str) -> range:
    """Ports from `first:last`; empty when the text is.

    Raises:
        ConfigError: it is no range.
    """
    if not text:
        return range(0)
    first, _, last = text.partition(":")
    if not first.isdigit() or not last.isdigit() or not 0 < int(first) <= int(last) < 65536:
        raise ConfigError(f"console.port_range: {text!r} is no range of ports. Write it as first:last, such as 10000:10999.")
    return range(int(first), int(last) + 1)
