"""SSH to ramdisks: one kept connection per boot, proved by the keys that were handed to that boot.

Rules: the host key is pinned, the client key is that boot's own, and nothing of the host's SSH configuration or agent is
used. Handshakes in flight are limited. Keepalives end a connection whose machine was reset; every command has a deadline.
Commands are fixed words and quoted arguments; data goes by the input.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metald.config import Ssh
from metald.drivers.ssh_library import gone
from metald.errors import DeployError, Invalid, RamdiskLost
from metald.limits import Gate
from metald.model import Node
from metald.model.boot import boot_id

if TYPE_CHECKING:
    import asyncssh

COMMAND_TIMEOUT = 60.0
"""Seconds that an ordinary command may take."""

_PROGRAM = "metald-ramdisk"
_LOOK_AT = 64
_CIPHERS = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a ramdisk listens, and the keys of its boot."""

    label: str
    boot: str
    address: str
    port: int
    host_key: str
    client_key: str

    @classmethod
    def of(cls, node: Node) -> Target:
        """The ramdisk that called for the node's present boot.

        Raises:
            RamdiskLost: none has.
            Invalid: the node has no keys of a boot.
        """
        info = node.driver_internal_info
        facts = info.get("ramdisk")
        boot = boot_id(node)
        if not boot or not isinstance(facts, dict) or facts.get("boot") != boot:
            raise RamdiskLost(f"Node {node.label}: no ramdisk has called since the machine was last booted.")
        host, client = info.get("boot_host_public_key"), info.get("boot_client_private_key")
        if not isinstance(host, str) or not isinstance(client, str):
            raise Invalid(f"Node {node.label} has no SSH keys of its present boot.")
        return cls(node.label, boot, str(facts["address"]), int(facts.get("port", 22)), host, client)


class Connections:
    """The kept connections. Opening one is shared by all who need it.

    Args:
        settings: the section `drivers.ssh`.
    """

    def __init__(self, settings: Ssh) -> None:
        self._settings = settings
        self.handshakes = Gate(settings.handshakes, "an SSH handshake", "drivers.ssh.handshakes")
        self._open: dict[str, asyncssh.SSHClientConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._look_at = _LOOK_AT
        self._ending: set[asyncssh.SSHClientConnection] = set()

    async def to(self, node: Node) -> Session:
        """A session with the node's ramdisk.

        Raises:
            RamdiskLost: it does not answer.
            DeployError: another machine answers, or the ramdisk refuses our key.
        """
        target = Target.of(node)
        self._drop_closed()
        async with self._locks.setdefault(target.boot, asyncio.Lock()):
            connection = self._open.get(target.boot)
            if connection is None or connection.is_closed():
                connection = self._open[target.boot] = await self._connect(target)
        return Session(target, connection, lambda: self._drop(target.boot, connection))

    def _drop(self, boot: str, connection: asyncssh.SSHClientConnection) -> None:
        """Have no more to do with a connection that does not answer; the next call opens another."""
        if self._open.get(boot) is connection:
            del self._open[boot]
        connection.abort()
        self._ending = {ending for ending in self._ending if not ending.is_closed()} | {connection}

    def _drop_closed(self) -> None:
        """Forget what is closed, once there is twice as much as after the last time: looking costs nothing per call then."""
        if len(self._open) + len(self._locks) < self._look_at:
            return
        for boot in [boot for boot, connection in self._open.items() if connection.is_closed()]:
            self._open.pop(boot).abort()
        for boot in [boot for boot, lock in self._locks.items() if not lock.locked() and boot not in self._open]:
            del self._locks[boot]
        self._look_at = max(_LOOK_AT, 2 * (len(self._open) + len(self._locks)))

    async def _connect(self, target: Target) -> asyncssh.SSHClientConnection:
        import asyncssh

        from metald.drivers.ssh.client import Client

        trusted = asyncssh.import_public_key(target.host_key)
        limit = self._settings.connect_timeout
        try:
            # waiting for one's turn is not the machine's time
            async with self.handshakes, asyncio.timeout(limit):
                return await asyncssh.connect(
                    target.address,
                    target.port,
                    client_factory=Client,
                    username="root",
                    known_hosts=([trusted], [], []),
                    client_keys=[asyncssh.import_private_key(target.client_key)],
                    server_host_key_algs=["ssh-ed25519"],
                    encryption_algs=list(_CIPHERS),
                    compression_algs=["none"],
                    preferred_auth=["publickey"],
                    config=None,
                    agent_path=None,
                    gss_host=None,
                    keepalive_interval=self._settings.keepalive,
                    keepalive_count_max=3,
                    connect_timeout=limit,
                    login_timeout=limit,
                )
        except asyncssh.HostKeyNotVerifiable:
            raise DeployError(
                f"Node {target.label}: the machine at {target.address} is not the ramdisk of this boot (wrong host key).",
                remedy="Check that no other machine has this address.",
            ) from None
        except asyncssh.PermissionDenied:
            raise DeployError(f"Node {target.label}: the ramdisk at {target.address} refuses the key of its boot.") from None
        except TimeoutError:
            raise self._unreachable(target, f"no answer in {limit:g} seconds") from None
        except gone() as error:
            raise self._unreachable(target, str(error) or type(error).__name__) from None

    @staticmethod
    def _unreachable(target: Target, why: str) -> RamdiskLost:
        return RamdiskLost(
            f"Node {target.label}: the ramdisk cannot be reached by SSH at {target.address} port {target.port}: {why}.",
            remedy="Look at the machine's console, and check that nothing between it and metald blocks SSH.",
        )

    async def close(self, boot: str) -> None:
        """Close the connection of a boot, if there is one."""
        connection = self._open.pop(boot, None)
        self._locks.pop(boot, None)
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def close_all(self) -> None:
        """Close every connection."""
        for boot in list(self._open):
            await self.close(boot)
        for connection in self._ending:
            await connection.wait_closed()


class Session:
    """Commands in one ramdisk."""

    def __init__(self, target: Target, connection: asyncssh.SSHClientConnection, drop: Callable[[], None]) -> None:
        self._target = target
        self._connection = connection
        self._drop = drop

    def _lost(self, error: BaseException | str) -> RamdiskLost:
        self._drop()
        why = str(error) or type(error).__name__
        return RamdiskLost(f"Node {self._target.label}: the connection to the ramdisk at {self._target.address} was lost: {why}.")

    async def run(self, *argv: str, data: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> bytes:
        """Run a command of `metald-ramdisk` and return its output.

        Args:
            data: its input.
            timeout: seconds until it must have ended.

        Raises:
            RamdiskLost: the connection broke or nothing came in time.
            DeployError: the command failed; the text is what it said.
        """
        from metald.drivers.ssh.command import MOST, Command

        command = Command()
        try:
            async with asyncio.timeout(timeout):
                channel, _ = await self._connection.create_session(lambda: command, shlex.join([_PROGRAM, *argv]), encoding=None)
                try:
                    if data:
                        channel.write(data)
                        channel.write_eof()
                    await command.end()
                finally:
                    channel.close()
        except TimeoutError:
            raise self._lost(f"{argv[0]} did not end in {timeout:g} seconds") from None
        except gone() as error:
            raise self._lost(error) from None
        status = channel.get_exit_status()
        if status is None:
            raise self._lost("the command was cut off")
        if command.too_much:
            raise DeployError(f"Node {self._target.label}: {argv[0]} said more than {MOST >> 20} MiB.")
        if status == 0:
            return bytes(command.output)
        said = command.errors.decode("utf-8", "replace").strip() or f"exit status {status}"
        raise DeployError(f"Node {self._target.label}: {argv[0]} failed in the ramdisk: {said}.")

    async def lines(self, *argv: str, silence: float) -> AsyncGenerator[dict[str, Any], None]:
        """Run a command that prints JSON lines, and give each as it comes.

        Args:
            silence: seconds without a line after which the ramdisk counts as lost.

        Raises:
            RamdiskLost: the connection broke or went silent.
        """
        from metald.drivers.ssh.command import Command

        command = Command(merged=True)
        try:
            channel, _ = await self._connection.create_session(lambda: command, shlex.join([_PROGRAM, *argv]), encoding=None)
            try:
                while True:
                    async with asyncio.timeout(silence):
                        line = await command.line()
                    if not line.endswith(b"\n") and command.over and channel.get_exit_status() is None:
                        raise self._lost("the command was cut off")
                    if not line:
                        break
                    yield self._decode(line)
            finally:
                channel.close()
        except TimeoutError:
            raise self._lost(f"nothing came for {silence:g} seconds") from None
        except gone() as error:
            raise self._lost(error) from None

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DeployError(f"Node {self._target.label}: the ramdisk said: {line[:200].decode('utf-8', 'replace').strip()}.")
        return found


def ranges(parts: Sequence[tuple[int, int]]) -> list[str]:
    """Pairs of offset and length as the ramdisk's commands take them."""
    return [f"{offset}:{length}" for offset, length in parts]
