"""What metald asks of a ramdisk, typed: disks, small reads and writes, images, boot variables.

Each method is one command of `metald-ramdisk` (see `metald/ramdisk/source`), one round trip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from metald.drivers.root_device import Disk
from metald.drivers.ssh.connection import Session, ranges
from metald.drivers.ssh.facts import disk
from metald.errors import DeployError

_SILENCE = 30.0
"""The writer says something every second; without a word for this long the machine is gone."""

_PATIENCE = 900
"""Seconds without a byte from metald after which the writer gives up: long enough for a restart of the daemon."""


class WrittenWrong(DeployError):
    """The disk does not hold the bytes that it should."""


class Ramdisk:
    """See the module.

    Args:
        session: the connection.
        label: what errors call the node.
    """

    def __init__(self, session: Session, label: str) -> None:
        self._session = session
        self.label = label

    async def disks(self) -> list[Disk]:
        """Every disk of the machine, in the order of their names."""
        output = await self._session.run("disks")
        return [disk(json.loads(line)) for line in output.splitlines()]

    async def facts(self) -> list[dict[str, Any]]:
        """What the machine is made of: first itself (`cpus`, `architecture`, `model`, `memory_kb`, DMI's texts), then each card.

        Raises:
            DeployError: the ramdisk is one that does not know the command, or says what cannot be read.
        """
        try:
            return [dict(json.loads(line)) for line in (await self._session.run("facts")).splitlines()]
        except (ValueError, TypeError):
            raise DeployError(f"Node {self.label}: the ramdisk's facts cannot be read.") from None

    async def read(self, target: Disk, parts: Sequence[tuple[int, int]]) -> bytes:
        """The bytes of (offset, length) ranges, one after the other; what lies behind the disk's end is left out."""
        return await self._session.run("read", target.kernel_name, *ranges(parts))

    async def patch(self, target: Disk, parts: Sequence[tuple[int, bytes]]) -> None:
        """Write bytes at offsets, in this order, and flush; the kernel then reads the partition table anew."""
        places = ranges([(offset, len(data)) for offset, data in parts])
        await self._session.run("patch", target.kernel_name, *places, data=b"".join(data for _, data in parts))

    async def zero(self, target: Disk, parts: Sequence[tuple[int, int]]) -> None:
        """Overwrite ranges with zeros, in this order, and flush."""
        await self._session.run("zero", target.kernel_name, *ranges(parts), timeout=600)

    async def erasures(self, target: Disk) -> dict[str, Any]:
        """What a disk can erase by itself; empty when it can nothing.

        `kind` is `nvme` (with `format` and `crypto`) or `ata` (with `enhanced`, `frozen`, `locked`, `minutes`).

        Raises:
            DeployError: the ramdisk is one that does not know the command.
        """
        try:
            return dict(json.loads(await self._session.run("erasures", target.kernel_name)))
        except (ValueError, TypeError):
            raise DeployError(f"Node {self.label}: what {target.name} can erase cannot be read.") from None

    def erasing(self, target: Disk, job: str, method: str, offset: int, seconds: float) -> AsyncGenerator[dict[str, Any], None]:
        """Have a worker in the ramdisk erase a disk, and give its state (`state`, `bytes`, `total`, `seconds`) as it changes.

        Called again for the same job it follows the worker that runs, or tells how it ended.

        Args:
            method: `nvme`, `nvme-crypto`, `ata`, `ata-enhanced`, or `zero` to overwrite.
            offset: where overwriting begins.
            seconds: how long it is followed when it does not end before; at least one state is told.
        """
        argv = ("erase", "--job", job, "--disk", target.kernel_name, "--method", method, "--offset", str(offset))
        return self._session.lines(*argv, "--follow", f"{seconds:g}", silence=_SILENCE)

    async def flush(self, disks: Sequence[Disk]) -> None:
        """Everything written is on the medium when this returns."""
        await self._session.run("flush", *(one.kernel_name for one in disks), timeout=600)

    async def loaders(self, target: Disk, partition: int) -> list[str]:
        """The EFI programs on a FAT partition, as paths with slashes."""
        output = await self._session.run("loaders", target.kernel_name, str(partition))
        return [str(json.loads(line)) for line in output.splitlines()]

    async def boot_variables(self) -> dict[str, bytes]:
        """The firmware's boot variables by name, attribute bytes first; empty on a machine that was booted by BIOS."""
        pairs = (line.decode().partition(" ") for line in (await self._session.run("efivar", "list")).splitlines())
        return {name: bytes.fromhex(content) for name, _, content in pairs}

    async def put_boot_variable(self, name: str, content: bytes) -> None:
        """Write one boot variable, attribute bytes first."""
        await self._session.run("efivar", "put", name, data=content)

    async def write(
        self, target: Disk, what: str, *, size: int, sha512: str, offset: int = 0, show: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Have the ramdisk pull `image` or `configdrive` from metald onto a disk and read it back.

        Called again for the same bytes and place it follows the writer that runs, or finds that it is done.

        Args:
            size: bytes.
            sha512: of those bytes.
            offset: where on the disk they go.
            show: called with the writer's state (`phase`, `bytes`, `total`, `seconds`, `retries`) several times a second.

        Returns:
            The writer's last state.

        Raises:
            RamdiskLost: the machine went away.
            WrittenWrong: what was read back is not what should be there.
            DeployError: the writer failed; says why and what to do.
        """
        job = hashlib.sha256(f"{what}:{target.name}:{offset}:{sha512}".encode()).hexdigest()[:32]
        argv = ("image", "--job", job, "--disk", target.kernel_name, "--name", what, "--size", str(size), "--sha512", sha512)
        state: dict[str, Any] = {}
        async for state in self._session.lines(*argv, "--offset", str(offset), "--patience", str(_PATIENCE), silence=_SILENCE):
            show(state)
        if state.get("state") == "done":
            return state
        raise self._failed(what, target, state)

    def _failed(self, what: str, target: Disk, state: dict[str, Any]) -> DeployError:
        remedies = {
            "mismatch": "Check the disk and the machine's memory.",
            "network": "Check that the machine reaches metald's boot HTTP server (boot.http_url).",
            "http": "Check that the machine reaches metald's boot HTTP server (boot.http_url).",
            "disk": "Check the disk.",
        }
        remedy = remedies.get(str(state.get("kind")), "")
        why = state.get("error") or "the writer ended without a word"
        kind = WrittenWrong if state.get("kind") == "mismatch" else DeployError
        return kind(f"Node {self.label}: the {what} could not be written to {target.name}: {why}.", remedy=remedy)
