"""A light machine's SSH ramdisk: the commands of `metald-ramdisk` on a disk that only counts.

What the real ramdisk's `init` and program do (`metald/ramdisk`), in this process and for thousands of machines: fetch the keys
of this boot, tell metald, then obey. Rules: a write outlives the connection that asked for it and is done once; asked again
it is followed, or told that it is done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import asyncssh

from metald.sim.disk import Disk
from metald.sim.faults import MachineCounters
from metald.sim.web import Web, WebError
from metald.sim.writer import DiskError, Writer

PROGRAM = "metald-ramdisk"
_RETRY = 1.0
_TELL = 1.0


class Host(Protocol):
    """The machine that a ramdisk runs on."""

    disk: Disk
    web: Web
    address: str
    macs: tuple[str, ...]
    counters: MachineCounters

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the machine's power."""
        ...

    def writer(self) -> Writer:
        """A way to the disk."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let the machine's time pass."""
        ...

    def commanded(self) -> None:
        """A command came."""
        ...

    serial: str


class LightRamdisk:
    """One boot of the SSH ramdisk.

    Args:
        host: the machine.
        words: of the kernel's command line.
        port: where its sshd is reached at the machine's address.
    """

    def __init__(self, host: Host, words: dict[str, str], port: int) -> None:
        self.host_key: asyncssh.SSHKey | None = None
        self.client_key: bytes = b""
        self._host = host
        self._url = f"{words['metald.url']}/boot/{words['metald.node']}/{words['metald.token']}"
        self._port = port
        self._jobs: dict[str, _Job] = {}
        self.connections: set[asyncssh.SSHServerConnection] = set()

    async def boot(self) -> None:
        """Come up and call metald; returns once metald knows."""
        keys = await self._again(lambda: self._host.web.get(f"{self._url}/keys"))
        self.host_key = asyncssh.import_private_key(keys["host_private_key"])
        self.client_key = asyncssh.import_public_key(keys["authorized_key"]).public_data
        said = {
            "address": self._host.address,
            "port": self._port,
            "uptime": 4.2,
            "boot_mode": "bios",
            "macs": ",".join(self._host.macs),
        }
        await self._again(lambda: self._host.web.post(f"{self._url}/ready", said))
        self._host.counters.ready_calls += 1

    async def _again(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while True:
            try:
                return (await call()).json()
            except WebError:
                await self._host.pause(_RETRY)

    def cut(self) -> None:
        """The power is gone."""
        for connection in list(self.connections):
            connection.abort()
        self.connections.clear()

    # -- commands

    async def run(self, argv: list[str], data: bytes, say: Callable[[bytes], None]) -> tuple[int, str]:
        """Run one command; its output goes to `say`.

        Returns:
            The exit status, and what the error output says.
        """
        self._host.counters.commands += 1
        self._host.commanded()
        disk = self._host.disk
        if argv[:1] in (["true"], ["sync"]):
            return 0, ""
        if len(argv) < 2 or argv[0] != PROGRAM:
            return 127, f"{argv[0] if argv else 'a shell'}: not found in the simulated ramdisk"
        match argv[1:]:
            case ["disks"]:
                say(self._disks())
            case ["read", "sda", *parts]:
                say(b"".join(disk.read(*_range(part)) for part in parts))
            case ["patch", "sda", *parts]:
                return self._patch(parts, data)
            case ["zero", "sda", *parts]:
                for part in parts:
                    disk.zero(*_range(part))
            case ["flush", *_]:
                pass
            case ["loaders", *_]:
                say(b'"EFI/BOOT/BOOTX64.EFI"\n')
            case ["efivar", *_]:
                pass
            case ["erasures", "sda"]:
                say(b"{}\n")
            case ["erase", *_]:
                disk.zero(0, disk.size)
                say(b'{"state":"done","phase":"erase","bytes":%d,"total":%d,"seconds":0.0}\n' % (disk.size, disk.size))
            case ["image", *options]:
                return await self._image(dict(zip(options[::2], options[1::2], strict=False)), say)
            case _:
                return 2, f"usage: {PROGRAM} disks|read|patch|zero|flush|image|loaders|efivar|erasures|erase ..."
        return 0, ""

    def _disks(self) -> bytes:
        facts = {
            "name": "sda",
            "size": str(self._host.disk.size // 512),
            "ro": "0",
            "removable": "0",
            "queue/logical_block_size": "512",
            "queue/rotational": "0",
            "serial": self._host.serial,
            "device/model": "SIMDISK",
            "device/vendor": "metald",
            "path": "/sys/devices/virtual/sda",
        }
        return json.dumps(facts).encode() + b"\n"

    def _patch(self, parts: list[str], data: bytes) -> tuple[int, str]:
        at = 0
        for part in parts:
            offset, length = _range(part)
            if at + length > len(data):
                return 1, f"got {len(data)} bytes, more were told"
            try:
                self._host.disk.write(offset, data[at : at + length])
            except ValueError:
                return 1, f"writing to sda at byte {offset} failed: No space left on device"
            at += length
        return 0, ""

    async def _image(self, options: dict[str, str], say: Callable[[bytes], None]) -> tuple[int, str]:
        name = options["--job"]
        job = self._jobs.get(name)
        if job is None or job.state["state"] == "failed":
            job = self._jobs[name] = _Job(self._host.writer(), int(options["--size"]))
            self._host.own(job.run(f"{self._url}/{options.get('--name', 'image')}", options))
        while True:
            say(json.dumps(job.look()).encode() + b"\n")
            if job.ended.is_set():
                return (0 if job.state["state"] == "done" else 1), ""
            try:
                async with asyncio.timeout(_TELL):
                    await job.ended.wait()
            except TimeoutError:
                continue


class _Job:
    """A write, as `metald-ramdisk image` tells of it."""

    def __init__(self, writer: Writer, size: int) -> None:
        self.ended = asyncio.Event()
        self._writer = writer
        self._began = asyncio.get_running_loop().time()
        self.state: dict[str, Any] = {"state": "running", "phase": "write", "bytes": 0, "total": size, "kind": "", "error": ""}

    def look(self) -> dict[str, Any]:
        """The state at this moment."""
        self.state["seconds"] = round(asyncio.get_running_loop().time() - self._began, 2)
        self.state["bytes"], self.state["retries"] = self._writer.done, self._writer.retries
        return self.state

    async def run(self, url: str, options: dict[str, str]) -> None:
        try:
            await self._writer.write(
                url,
                algorithm="sha512",
                digest=options["--sha512"],
                size=int(options["--size"]),
                offset=int(options.get("--offset", "0")),
                patience=float(options.get("--patience", "900")),
            )
            self.state |= {"state": "done", "phase": "verify"}
        except DiskError as error:
            self.state |= {"state": "failed", "kind": error.kind, "error": str(error)}
        self.ended.set()


def _range(text: str) -> tuple[int, int]:
    offset, _, length = text.partition(":")
    return int(offset), int(length)
