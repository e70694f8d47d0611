"""SSH to one hypervisor host: a connection that all its machines share, opened when needed and opened again when it broke.

Rules:

- The host proves itself by a pinned key or by the file of known hosts, never on trust. Nothing of the account's own SSH
  configuration, agent or keys is used.
- An attempt to connect is shared by all who need it, and so is its failure for a short while: a dead host costs one attempt.
- Commands at once on one connection are bounded, as sshd bounds them; the output of each is bounded, and each has a deadline.
- A command is a list of words, each quoted for the shell of the far side.
- Consoles that run a program stay for long; they get connections of their own.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from metald.config import SshHost
from metald.drivers.ssh_host import credentials
from metald.drivers.ssh_host.info import HostInfo
from metald.drivers.ssh_library import gone
from metald.errors import DriverError, HostAuthFailed, HostRefused, HostUnreachable
from metald.limits import Gate

if TYPE_CHECKING:
    import asyncssh

    Connection = asyncssh.SSHClientConnection

_CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr")
_MOST_OUTPUT: Final = 8 << 20


class _Broken(Exception):
    """A command was cut off because its connection broke."""

    def __init__(self, connection: Connection, error: HostUnreachable) -> None:
        super().__init__(str(error))
        self.connection, self.error = connection, error


class Host:
    """One host.

    Args:
        info: how to reach it.
        settings: the section `drivers.ssh_host`.
        handshakes: bounds how many hosts are being connected to.
    """

    def __init__(self, info: HostInfo, settings: SshHost, handshakes: Gate) -> None:
        self.info = info
        self.settings = settings
        self.used = time.monotonic()
        """When it was last used."""
        self._handshakes = handshakes
        self._channels = asyncio.Semaphore(settings.channels)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._failed: tuple[float, DriverError] | None = None
        self._lines: list[tuple[Connection, list[object]]] = []
        self._busy = 0
        self._users: dict[Connection, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._ending: set[Connection] = set()

    @property
    def idle(self) -> bool:
        """Whether nobody uses it now."""
        return not self._busy and self._connecting is None and not any(users for _, users in self._lines)

    @asynccontextmanager
    async def turn(self, what: str) -> AsyncIterator[None]:
        """Wait until nobody else uses something on the host that one at a time can use."""
        async with self._using(), self._turns.setdefault(what, asyncio.Lock()):
            yield

    async def run(self, argv: Sequence[str], *, data: str = "", again: bool = False) -> str:
        """Run a command and return what it printed.

        Args:
            data: its input.
            again: whether it may be run a second time, when the kept connection turns out to have been lost.

        Raises:
            HostUnreachable: the host does not answer, or not in time, or the connection broke.
            HostAuthFailed: it refuses the login, or is not the host that is trusted.
            HostRefused: the command failed; the text is what it said.
        """
        async with self._using(), self._channels:
            kept = self._connection
            try:
                return await self._run(await self._connect(), argv, data)
            except _Broken as broken:
                if not again or broken.connection is not kept:
                    raise broken.error from None
            try:
                return await self._run(await self._connect(), argv, data)
            except _Broken as broken:
                raise broken.error from None

    async def _run(self, connection: Connection, argv: Sequence[str], data: str) -> str:
        import asyncssh

        limit = self.settings.command_timeout
        process: asyncssh.SSHClientProcess[bytes] | None = None
        try:
            async with self._on(connection), asyncio.timeout(limit):
                # LC_ALL: the output is parsed; env is a program, so that the far shell may be of any kind
                process = await connection.create_process(shlex.join(["env", "LC_ALL=C", *argv]), encoding=None)
                output, errors = await _communicate(process, data.encode())
        except TimeoutError:
            self._leave(connection)
            raise HostUnreachable(
                f"On {self.info.label} `{argv[0]}` did not end in {limit:g} seconds.",
                remedy="See on the host what it waits for, or raise drivers.ssh_host.command_timeout.",
            ) from None
        except asyncssh.ChannelOpenError as error:
            raise self._no_channel(connection, error) from None
        except gone() as error:
            raise _Broken(connection, self._lost(connection, error)) from None
        finally:
            if process is not None:
                process.close()
        if process.exit_status is None:
            raise _Broken(connection, self._lost(connection, f"`{argv[0]}` was cut off"))
        if process.exit_status != 0:
            said = (errors or output).decode("utf-8", "replace").strip()[-500:] or f"exit status {process.exit_status}"
            raise HostRefused(
                f"On {self.info.label} `{argv[0]}` failed: {' '.join(said.split())}.", remedy=_remedy(process.exit_status, argv[0])
            )
        return output.decode("utf-8", "replace")

    @asynccontextmanager
    async def channel(self, to: str | int) -> AsyncIterator[tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]]:
        """A stream to a Unix socket on the host, or to a TCP port of its own 127.0.0.1.

        Raises:
            HostRefused: nobody listens there, or sshd forbids it.
            HostUnreachable: see `run`.
            HostAuthFailed: see `run`.
        """
        import asyncssh

        where, limit = to if isinstance(to, str) else f"127.0.0.1:{to}", self.settings.connect_timeout
        async with self._using():
            connection = await self._connect()
            async with self._on(connection):
                try:
                    async with asyncio.timeout(limit):
                        opened = connection.open_unix_connection(to) if isinstance(to, str) else connection.open_connection("127.0.0.1", to)
                        reader, writer = await opened
                except TimeoutError:
                    self._leave(connection)
                    raise HostUnreachable(f"On {self.info.label} {where} could not be opened in {limit:g} seconds.") from None
                except asyncssh.ChannelOpenError as error:
                    if connection.is_closed():
                        raise self._lost(connection, error) from None
                    raise HostRefused(
                        f"On {self.info.label} {where} cannot be opened: {error.reason}.",
                        remedy="Check that the machine runs, that the user may use that socket, and that sshd allows forwarding to it.",
                    ) from None
                except gone() as error:
                    raise self._lost(connection, error) from None
                try:
                    yield reader, writer
                finally:
                    writer.close()

    @asynccontextmanager
    async def terminal(self, argv: Sequence[str]) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """Run a program with a terminal, for as long as the context lasts, on a connection for such programs.

        Raises:
            HostUnreachable: see `run`.
            HostAuthFailed: see `run`.
        """
        import asyncssh

        ticket = object()
        connection, users = await self._line(ticket)
        process: asyncssh.SSHClientProcess[bytes] | None = None
        try:
            try:
                async with asyncio.timeout(self.settings.connect_timeout):
                    process = await connection.create_process(shlex.join(argv), encoding=None, term_type="vt100", term_size=(80, 24))
            except TimeoutError:
                raise self._lost(connection, "a terminal could not be opened in time") from None
            except asyncssh.ChannelOpenError as error:
                raise self._no_channel(connection, error) from None
            except gone() as error:
                raise self._lost(connection, error) from None
            yield process
        finally:
            if process is not None:
                process.close()
            users.remove(ticket)
            if not users:
                self._lines = [(kept, theirs) for kept, theirs in self._lines if kept is not connection]
                self._end(connection)

    async def _line(self, ticket: object) -> tuple[Connection, list[object]]:
        """A connection that has room for one program more."""
        async with self._using():
            for connection, users in self._lines:
                if len(users) < self.settings.channels and not connection.is_closed():
                    users.append(ticket)
                    return connection, users
            found = await self._login()
            users = [ticket]
            self._lines.append((found, users))
            return found, users

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.used = time.monotonic()

    @asynccontextmanager
    async def _on(self, connection: Connection) -> AsyncIterator[None]:
        """Use a connection. One that is not kept any more ends with the last who uses it."""
        self._users[connection] = self._users.get(connection, 0) + 1
        try:
            yield
        finally:
            self._users[connection] -= 1
            if not self._users[connection]:
                del self._users[connection]
                if connection is not self._connection:
                    self._end(connection)

    def _leave(self, connection: Connection) -> None:
        """Begin nothing more on a connection: what hangs there goes on holding one of the sessions that sshd allows."""
        if self._connection is connection:
            self._connection = None
        if connection not in self._users:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.abort()
        self._ending = {ending for ending in self._ending if not ending.is_closed()} | {connection}

    async def _connect(self) -> Connection:
        """The connection; one that is shared, or one attempt that is shared."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._connecting is None:
            if self._failed is not None and time.monotonic() < self._failed[0]:
                raise self._failed[1]
            self._connecting = asyncio.create_task(self._login(), name=f"SSH to {self.info.label}")
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = self._failed = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._connection = task.result()
        elif isinstance(error, DriverError):
            self._failed = (time.monotonic() + self.settings.pause, error)

    async def _login(self) -> Connection:
        import asyncssh

        info, limit = self.info, self.settings.connect_timeout
        keys, trusted = await credentials.keys(info), await credentials.trusted(info, self.settings.known_hosts)
        try:
            # waiting for one's turn is not the host's time
            async with self._handshakes, asyncio.timeout(limit):
                return await asyncssh.connect(
                    info.address,
                    info.port,
                    username=info.username,
                    password=info.password,
                    known_hosts=trusted,
                    client_keys=keys,
                    encryption_algs=list(_CIPHERS),
                    compression_algs=["none"],
                    preferred_auth=["publickey"] if keys else ["password", "keyboard-interactive"],
                    config=None,
                    agent_path=None,
                    gss_host=None,
                    keepalive_interval=self.settings.keepalive,
                    keepalive_count_max=3,
                    connect_timeout=limit,
                    login_timeout=limit,
                )
        except asyncssh.HostKeyNotVerifiable:
            where = "driver_info ssh_host_key" if info.host_keys else f"{self.settings.known_hosts} (drivers.ssh_host.known_hosts)"
            raise HostAuthFailed(
                f"{info.label[:1].upper()}{info.label[1:]} shows a host key that is not in {where}.",
                remedy="Compare the host's key with `ssh-keyscan`; if it is right, set it as ssh_host_key or add it to that file.",
            ) from None
        except asyncssh.PermissionDenied:
            raise HostAuthFailed(
                f"{info.label[:1].upper()}{info.label[1:]} refuses user {info.username}.",
                remedy=f"Correct ssh_username or {info.secret_key} in driver_info, or let the user in on the host.",
            ) from None
        except TimeoutError:
            raise self._unreachable(f"no answer in {limit:g} seconds") from None
        except gone() as error:
            raise self._unreachable(str(error) or type(error).__name__) from None

    def _unreachable(self, why: str) -> HostUnreachable:
        return HostUnreachable(
            f"{self.info.label[:1].upper()}{self.info.label[1:]} cannot be reached by SSH: {why}.",
            remedy="Check ssh_address and ssh_port, the network and the host's sshd.",
        )

    def _lost(self, connection: Connection, error: BaseException | str) -> HostUnreachable:
        """Have no more to do with a connection that does not answer; the next call opens another."""
        if self._connection is connection:
            self._connection = None
        self._end(connection)
        return HostUnreachable(f"The SSH connection to {self.info.label} was lost: {str(error) or type(error).__name__}.")

    def _no_channel(self, connection: Connection, error: asyncssh.ChannelOpenError) -> DriverError:
        """The error for a session that was not opened."""
        if connection.is_closed():
            return self._lost(connection, error)
        return HostRefused(
            f"{self.info.label[:1].upper()}{self.info.label[1:]} opens no further session: {error.reason}.",
            remedy="Raise MaxSessions of its sshd, or lower drivers.ssh_host.channels.",
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        kept = [self._connection] if self._connection is not None else []
        for connection in {*kept, *self._users, *(line for line, _ in self._lines)}:
            self._end(connection)
        for connection in self._ending:
            await connection.wait_closed()
        self._connection = None


async def _communicate(process: asyncssh.SSHClientProcess[bytes], data: bytes) -> tuple[bytes, bytes]:
    """What a program prints, up to a limit, while it is given its input."""
    if data:
        process.stdin.write(data)
    process.stdin.write_eof()
    output, errors = await asyncio.gather(_read(process.stdout), _read(process.stderr))
    await process.wait_closed()
    return output, errors


async def _read(reader: asyncssh.SSHReader[bytes]) -> bytes:
    found = bytearray()
    while chunk := await reader.read(64 << 10):
        found += chunk
        if len(found) > _MOST_OUTPUT:
            raise EOFError(f"more than {_MOST_OUTPUT} bytes came")
    return bytes(found)


def _remedy(status: int, program: str) -> str:
    if status in {126, 127}:
        return f"Install {program} on the host, or set ssh_virt_type in driver_info to the software that is there."
    return "Run the same on the host, as the same user, and mend what it complains of."
