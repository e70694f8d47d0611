"""The SSH way in: `ssh node-name@metald` shows that machine's console.

Rules:

- The user name says which machine, by name or UUID; who may come in is said by the keys in one file, which is read anew for
  each login. There are no passwords, no commands, no forwarding.
- The server's own key is made at the first start, for the daemon's account alone, and stays.
- Leaving is the client's `~.`; a break is its `~B`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncssh

from metald.config import ConfigError, parse_listen
from metald.console.consoles import Consoles
from metald.console.stream import ConsoleStream, Reader, notice
from metald.errors import MetaldError

_log = logging.getLogger(__name__)

_CHUNK: Final = 4096
_LOGIN_TIMEOUT: Final = 30.0
_KEEPALIVE: Final = 15.0

FindNode = Callable[[str], str]
"""The UUID of the node with this name or UUID; raises NotFound when there is none."""


class _Login(asyncssh.SSHServer):
    """One connection until it is let in."""

    def __init__(self, keys: Path) -> None:
        self._keys = keys
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """See asyncssh."""
        self._connection = conn

    async def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - which machine, not who
        """Read the keys as they are now."""
        assert self._connection is not None
        try:
            self._connection.set_authorized_keys(await asyncio.to_thread(asyncssh.read_authorized_keys, str(self._keys)))
        except (OSError, ValueError) as error:
            _log.warning("console.ssh_authorized_keys: %s cannot be read: %s", self._keys, error)
        return True

    def password_auth_supported(self) -> bool:
        """Never."""
        return False

    def kbdint_auth_supported(self) -> bool:
        """Never."""
        return False


class SshConsoles:
    """The SSH server. An async context manager.

    Args:
        consoles: what it lets people in to.
        find: finds a node.

    Raises:
        ConfigError: when entered: the address cannot be used, or there is no file of keys.
    """

    def __init__(self, consoles: Consoles, find: FindNode) -> None:
        self._consoles, self._find = consoles, find
        self._server: asyncssh.SSHAcceptor | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens at."""
        assert self._server is not None
        return int(self._server.get_port())

    async def __aenter__(self) -> SshConsoles:
        settings = self._consoles.settings
        if not settings.ssh_listen:
            return self
        keys = Path(settings.ssh_authorized_keys)
        if not settings.ssh_authorized_keys or not await asyncio.to_thread(os.access, keys, os.R_OK):
            raise ConfigError(
                f"console.ssh_authorized_keys: {settings.ssh_authorized_keys!r} cannot be read. "
                "Name a file of public keys, as OpenSSH's authorized_keys, or leave console.ssh_listen empty."
            )
        try:
            host, port = parse_listen(settings.ssh_listen)
            self._server = await asyncssh.listen(
                host,
                port,
                server_factory=lambda: _Login(keys),
                server_host_keys=[await asyncio.to_thread(host_key, self._consoles.directory / "ssh_host_ed25519_key")],
                process_factory=self._serve,
                server_version="metald",
                encoding=None,
                line_editor=False,
                allow_scp=False,
                x11_forwarding=False,
                agent_forwarding=False,
                gss_host=None,
                login_timeout=_LOGIN_TIMEOUT,
                keepalive_interval=_KEEPALIVE,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"console.ssh_listen: {settings.ssh_listen} cannot be used: {error}.") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        name = str(process.get_extra_info("username"))
        try:
            if process.command is not None or process.subsystem is not None:
                raise MetaldError("This is a console: there are no commands.", remedy="Leave the command away.")
            stream = self._consoles.stream(self._find(name))
            reader = stream.join()
        except MetaldError as error:
            process.stderr.write(notice(str(error)))
            process.exit(1)
            return
        _log.info("node %s: console opened over SSH from %s", name, process.get_extra_info("peername", ("?",))[0])
        try:
            await self._relay(process, stream, reader)
        finally:
            reader.leave()
            process.exit(0)

    async def _relay(self, process: asyncssh.SSHServerProcess[bytes], stream: ConsoleStream, reader: Reader) -> None:
        async def types() -> None:
            while True:
                try:
                    data = await process.stdin.read(_CHUNK)
                except asyncssh.BreakReceived:
                    stream.send_break()
                except (asyncssh.TerminalSizeChanged, asyncssh.SignalReceived):
                    continue
                else:
                    if not data:
                        return
                    await stream.write(data)

        typing = asyncio.create_task(types())
        typing.add_done_callback(lambda _: reader.end())
        try:
            while data := await reader.read():
                process.stdout.write(data)
                await process.stdout.drain()
        except (OSError, asyncssh.Error):
            pass  # the client is gone
        finally:
            typing.cancel()
            await asyncio.wait([typing])


def host_key(path: Path) -> asyncssh.SSHKey:
    """The server's key, made when there is none.

    Raises:
        OSError: it cannot be read or written.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = path.with_suffix(".new")
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(asyncssh.generate_private_key("ssh-ed25519", comment="metald").export_private_key())
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)
    return asyncssh.read_private_key(str(path))
