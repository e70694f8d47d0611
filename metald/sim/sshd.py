"""One SSH server for all light machines: the address that a connection came to says whose ramdisk answers.

Rules: each connection gets the host key of the present boot of its machine and takes that boot's client key alone. Only
commands of the ramdisk are run; there is no shell, no forwarding, no file transfer.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncssh

from metald.sim.light import LightRamdisk
from metald.sim.listen import Listener

_WITH_INPUT = frozenset({"patch", "efivar"})
_GONE = (asyncssh.Error, OSError, EOFError)


class Sshd:
    """See the module.

    Args:
        find: the ramdisk that runs at an address, or None.
    """

    def __init__(self, find: Callable[[str], LightRamdisk | None]) -> None:
        self._find = find
        self._listener = Listener(self._greet, "simulated sshd")
        self._base: asyncssh.SSHServerConnectionOptions | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    def start(self, port: int = 0) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        self._base = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            kex_algs=["curve25519-sha256"],  # what the ramdisk's dropbear has
            encryption_algs=["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"],
            compression_algs=["none"],
            x11_forwarding=False,
            agent_forwarding=False,
            allow_scp=False,
            gss_host=None,
        )
        self._listener.start(port)

    async def close(self) -> None:
        """Answer nobody any more; connections go with their machines."""
        await self._listener.close()

    async def _greet(self, sock: socket.socket, address: str) -> None:
        ramdisk = self._find(address)
        if ramdisk is None or ramdisk.host_key is None:
            sock.close()
            return
        options = asyncssh.SSHServerConnectionOptions(
            options=self._base, server_host_keys=[ramdisk.host_key], server_factory=lambda: _Door(ramdisk)
        )
        with suppress(*_GONE):
            await asyncssh.run_server(sock, options=options)


class _Door(asyncssh.SSHServer):
    """Who comes in, and what they are given."""

    def __init__(self, ramdisk: LightRamdisk) -> None:
        self._ramdisk = ramdisk
        self._own: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._own = conn
        self._ramdisk.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._own is not None:
            self._ramdisk.connections.discard(self._own)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "root" and key.public_data == self._ramdisk.client_key

    def session_requested(self) -> Any:
        assert self._own is not None
        return self._own.create_server_channel(encoding=None), _Command(self._ramdisk)


class _Command(asyncssh.SSHServerSession[bytes]):
    """One command: its input is gathered first where it takes any."""

    def __init__(self, ramdisk: LightRamdisk) -> None:
        self._ramdisk = ramdisk
        self._argv: list[str] = []
        self._input = bytearray()
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._task is not None:
            self._task.cancel()

    def exec_requested(self, command: str) -> bool:
        try:
            self._argv = shlex.split(command)
        except ValueError:
            return False
        return bool(self._argv)

    def session_started(self) -> None:
        if self._argv[1:2] and self._argv[1] in _WITH_INPUT and self._argv[2:3] != ["list"]:
            return
        self._run()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002
        self._input += data

    def eof_received(self) -> bool:
        self._run()
        return True

    def _run(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="simulated command")

    async def _serve(self) -> None:
        channel = self._channel
        assert channel is not None
        status, complaint = await self._ramdisk.run(self._argv, bytes(self._input), channel.write)
        if complaint:
            channel.write_stderr(f"{complaint}\n".encode())
        channel.exit(status)
