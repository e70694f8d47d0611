"""A real `metald serve` as a process of its own, over a state directory that outlives it, and a small client for its API.

The daemon is started, told to stop, or killed, as often as a test wants, always on the same ports. It says that it is
ready by systemd's protocol, so that nobody polls for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import aiohttp

MICROVERSION = "1.115"
STOPPED_STATES = frozenset({"clean failed", "deploy failed", "error", "enroll", "rescue failed", "inspect failed"})


class Running(Protocol):
    """A process that was started."""

    pid: int

    async def wait(self) -> int: ...


Spawn = Callable[[dict[str, str], Path], Awaitable[Running]]
"""Start a daemon with an environment and a log file."""


def by(*command: str, **more: str) -> Spawn:
    """How to start a daemon by a command.

    Args:
        command: the program and its arguments.
        more: what its environment holds beside the settings.
    """

    async def spawn(environment: dict[str, str], log: Path) -> Running:
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **environment, **more},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    return spawn


SERVE = (sys.executable, "-m", "metald", "serve")
"""The command that users run."""
serve = by(*SERVE)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port below those that the kernel gives out by itself, so that it is still free after a restart."""
    while True:
        port = random.randrange(15000, 32000)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Daemon:
    """Starts and ends daemons over one state directory. An async context manager; the end stops what runs.

    Args:
        folder: everything of it lies below here.
        settings: by name, as in `{"conductor.retry_delay": "0.1"}`.
    """

    at_end: ClassVar[list[Callable[[Daemon], None]]] = []
    """Called with each daemon when its context has ended and it does not run any more."""

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.log = folder / "metald.log"
        self.settings: dict[str, object] = {
            "state_dir": self.state_dir,
            "api.listen": f"127.0.0.1:{free_port()}",
            "boot.http_listen": f"127.0.0.1:{free_port()}",
            "conductor.power_sync_interval": 0,
            **(settings or {}),
        }
        self._process: Running | None = None
        self._notices: socket.socket | None = None
        self._ended: asyncio.Task[int] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.settings['api.listen']}"

    @property
    def boot_url(self) -> str:
        return f"http://{self.settings['boot.http_listen']}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Daemon:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        for look in self.at_end:
            look(self)

    def environment(self) -> dict[str, str]:
        named = {f"METALD__{name.upper().replace('.', '__')}": str(value) for name, value in self.settings.items()}
        return {**named, "PYTHONUNBUFFERED": "1", "NOTIFY_SOCKET": self._notice_address()}

    def _notice_address(self) -> str:
        if self._notices is None:
            self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._notices.bind(f"\0metald-test-{uuid.uuid4()}")
            self._notices.setblocking(False)
        return "@" + self._notices.getsockname()[1:].decode()

    async def start(self, spawn: Spawn = serve, *, ready: bool = True) -> None:
        """Start a daemon and wait until it is ready, or has died first when `ready` is false."""
        assert self._ended is None or self._ended.done(), "a daemon runs already"
        self._notice_address()
        assert self._notices is not None
        with contextlib.suppress(BlockingIOError):
            while self._notices.recv(4096):
                pass
        self._process = await spawn(self.environment(), self.log)
        self._ended = asyncio.ensure_future(self._process.wait())
        if not await self._is_ready() and ready:
            raise AssertionError(f"the daemon ended with {self._ended.result()} before it was ready:\n{self.output()}")

    async def _is_ready(self) -> bool:
        loop = asyncio.get_running_loop()
        assert self._notices is not None
        assert self._ended is not None
        async with asyncio.timeout(60):
            while True:
                notice = asyncio.ensure_future(loop.sock_recv(self._notices, 4096))
                await asyncio.wait((notice, self._ended), return_when=asyncio.FIRST_COMPLETED)
                if not notice.done():
                    notice.cancel()
                    await asyncio.gather(notice, return_exceptions=True)
                    return False
                if b"READY=1" in notice.result():
                    return True

    async def ended(self, timeout: float = 60.0) -> int:
        """Wait for the daemon's end; its exit status, negative when a signal ended it."""
        assert self._ended is not None
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._ended)

    def alive(self) -> bool:
        return self._ended is not None and not self._ended.done()

    async def kill(self) -> None:
        """SIGKILL, if one runs."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        if self._ended is not None:
            await self.ended()
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    async def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        os.kill(self.pid, signal.SIGTERM)
        return await self.ended()

    def output(self) -> str:
        """Everything that was logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def assert_clean(self) -> None:
        """No daemon that ran here met a defect."""
        for sign in ("Traceback", "has a defect", "was never retrieved", "never awaited", "Warning:"):
            assert sign not in self.output(), f"the log has {sign!r}:\n{self.output()[-6000:]}"


class Refused(Exception):
    """The API answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class Api:
    """Speaks Ironic's API to a daemon. Use `api(daemon)`."""

    def __init__(self, session: aiohttp.ClientSession, daemon: Daemon) -> None:
        self._session = session
        self._daemon = daemon

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request; its decoded body.

        Raises:
            Refused: the answer is an error. The text must be an error of the API's, never a traceback.
        """
        async with self._session.request(method, self._daemon.url + path, json=body) as answer:
            text = await answer.text()
            assert "Traceback" not in text
            if answer.status >= 400:
                raise Refused(answer.status, text)
            return await answer.json(content_type=None) if text else None

    async def node(self, uuid: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("GET", f"/v1/nodes/{uuid}")
        return found

    async def create(self, **fields: Any) -> str:
        made = await self.ask("POST", "/v1/nodes", fields)
        return str(made["uuid"])

    async def port(self, node_uuid: str, address: str) -> None:
        await self.ask("POST", "/v1/ports", {"node_uuid": node_uuid, "address": address, "pxe_enabled": True})

    async def patch(self, uuid: str, **fields: Any) -> None:
        """Set fields, given as `instance_info={"a": 1}`."""
        await self.ask("PATCH", f"/v1/nodes/{uuid}", [{"op": "add", "path": f"/{name}", "value": value} for name, value in fields.items()])

    async def provision(self, uuid: str, target: str, **more: Any) -> None:
        await self.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target, **more})

    async def wait(self, uuid: str, *states: str, timeout: float = 60.0, through: bool = False) -> dict[str, Any]:
        """Wait until the node is in one of `states` with nothing driving it; fail early when it stopped elsewhere.

        Args:
            through: a daemon that is down meanwhile is waited for.
        """
        node: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        node = await self.node(uuid)
                    except aiohttp.ClientError:
                        if not through:
                            raise
                        await asyncio.sleep(0.02)
                        continue
                    state = node["provision_state"]
                    if state in states and (node["reservation"] is None or "wait" in state):
                        return node
                    stopped = state in STOPPED_STATES and state not in states and node["reservation"] is None
                    assert not stopped, f"the node stopped in {state!r}: {node['last_error']}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            shown = {k: node.get(k) for k in ("provision_state", "target_provision_state", "reservation", "last_error", "deploy_step")}
            raise AssertionError(f"the node did not come to {states} in {timeout:g} s: {shown}") from None


@contextlib.asynccontextmanager
async def api(daemon: Daemon) -> AsyncIterator[Api]:
    """A client of the daemon."""
    headers = {"X-OpenStack-Ironic-API-Version": MICROVERSION}
    # A connection of its own for each request: the daemon dies and comes back in these tests.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Api(session, daemon)
