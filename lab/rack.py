"""The lab: machines behind real BMCs on one wire, as an async context manager that leaves nothing behind.

async with Lab(machines=2) as lab:
    lab.machines[0].bmc.port ...
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from lab.bmc import Bmc, build_module
from lab.dhcp import Wire
from lab.hardware import GIB, Clients, Hardware, make_disk, make_vars
from lab.machine import Happening, Machine
from lab.network import BridgedNetwork, Network, UserNetwork, may_bridge
from lab.process import LabError

_PREFIX = "metald-lab-"
_USER = "admin"
_MEMORY = 768
_LONGEST_PLACE = 60


@dataclass(slots=True)
class LabMachine:
    """One place in the rack, as its owner and tests see it.

    Attributes:
        mac: address of the network card that boots, lower case.
        disks: files of its disks, first the one that the firmware boots.
        bmc: address, port, user and password; `stop` and `start` restart it.
        machine: power state, what happened, and `stuck` to break its power.
    """

    index: int
    name: str
    mac: str
    disks: Sequence[Path]
    bmc: Bmc
    machine: Machine
    network: Network

    @property
    def disk(self) -> Path:
        """The file of the disk that the firmware boots."""
        return self.disks[0]

    @property
    def disk_serials(self) -> list[str]:
        """Serial numbers of its disks, for root device hints."""
        return [self.machine.hardware.serial(index) for index in range(len(self.disks))]

    @property
    def serial_log(self) -> Path:
        """Everything that came out of its serial line."""
        return self.machine.serial_log

    @property
    def on(self) -> bool:
        """Whether it has power."""
        return self.machine.on

    @property
    def power_ons(self) -> int:
        """How often it went from off to on."""
        return self.machine.power_ons

    @property
    def resets(self) -> int:
        """How often its BMC reset or cycled it."""
        return self.machine.resets

    @property
    def guest_reboots(self) -> int:
        """How often its own system restarted it."""
        return self.machine.guest_reboots

    @property
    def happenings(self) -> list[Happening]:
        """Everything that happened to its power, oldest first."""
        return self.machine.happenings

    @property
    def driver_info(self) -> dict[str, str | int]:
        """What metald's and Ironic's driver `ipmi` is to be told."""
        bmc = self.bmc
        return {
            "ipmi_address": bmc.address,
            "ipmi_port": bmc.port,
            "ipmi_username": bmc.user,
            "ipmi_password": bmc.password,
            "ipmi_cipher_suite": "3",
        }

    def ssh(self) -> tuple[str, int] | None:
        """Where its port 22 is reached from here; None while it has no address."""
        return self.network.ssh(self.index, self.mac)


class Lab:
    """A rack.

    Args:
        machines: how many.
        uefi: UEFI firmware (OVMF) instead of BIOS.
        rom: QEMU's iPXE as option ROM of the network cards; without it UEFI machines use the firmware's own PXE.
        secure: UEFI firmware with secure boot on.
        arm64: arm64 machines, with UEFI firmware.
        clients: see `Hardware`.
        wire: what a bridged network is made of.
        disks: sizes of each machine's disks in bytes.
        memory: MiB per machine.
        network: `bridge` (root), `user`, or `auto`: bridge where that is possible.
        boot_url: on a user network, the boot file that DHCP names: metald's iPXE script as machines reach it.

    Attributes:
        left_out: what the network at hand cannot show, and why; empty on a bridge.
        metald: settings for a metald that serves these machines, as environment variables.
    """

    def __init__(
        self,
        machines: int = 2,
        *,
        uefi: bool = False,
        rom: bool = True,
        secure: bool = False,
        arm64: bool = False,
        clients: Clients = "pxe",
        wire: Wire = Wire(),  # noqa: B008  # frozen
        disks: Sequence[int] = (4 * GIB,),
        memory: int = _MEMORY,
        network: Literal["auto", "bridge", "user"] = "auto",
        boot_url: str = "",
    ) -> None:
        self.machines: list[LabMachine] = []
        self.left_out: list[str] = []
        self.metald: dict[str, str] = {}
        self.directory = Path()
        self._count = machines
        self._uefi = uefi or secure or arm64
        self._arm64 = arm64
        self._secure = secure
        self._clients = clients
        self._wire_made_of = wire
        self._rom = rom
        self._disks = disks
        self._memory = memory
        self._kind = network
        self._boot_url = boot_url
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """The wire. Only inside the context."""
        assert self._network is not None
        return self._network

    @property
    def host(self) -> str:
        """This host's address as machines reach it."""
        return self.network.host

    @property
    def bind(self) -> str:
        """The address to listen on for machines."""
        return self.host if isinstance(self._network, BridgedNetwork) else "127.0.0.1"

    async def __aenter__(self) -> Self:
        sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_place()))
        try:
            await self._start()
        except BaseException:
            await asyncio.shield(self._close())
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # A second Ctrl-C must not leave half a rack behind.
            await closing
            raise

    async def _start(self) -> None:
        await self._wire()
        for index in range(self._count):
            self.machines.append(self._build(index))
        await build_module()
        try:
            async with asyncio.TaskGroup() as group:
                for one in self.machines:
                    group.create_task(self._bring_up(one))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _bring_up(self, one: LabMachine) -> None:
        await one.machine.start()
        await one.bmc.start()

    async def _wire(self) -> None:
        reason = "it was asked for" if self._kind == "user" else may_bridge()
        if not reason:
            network = BridgedNetwork(self.directory, self._wire_made_of)
            try:
                await network.start(self._count)
            except LabError as error:
                await network.close()
                reason = str(error)
            else:
                self._network = network
                self.metald = network.metald()
                return
        if self._kind == "bridge":
            raise LabError(f"A bridged lab cannot be made: {reason}.")
        self._network = UserNetwork(self._boot_url)
        await self._network.start(self._count)
        self.left_out = [f"QEMU's user networking ({reason})", *self._network.left_out]

    def _build(self, index: int) -> LabMachine:
        name = f"m{index}"
        directory = self.directory / name
        directory.mkdir()
        disks = [make_disk(directory / f"disk{number}.raw", size) for number, size in enumerate(self._disks)]
        mac = f"52:54:00:{secrets.randbelow(256):02x}:{secrets.randbelow(256):02x}:{index:02x}"
        hardware = Hardware(
            name=name,
            uuid=str(uuid.uuid4()),
            mac=mac,
            memory=self._memory,
            disks=disks,
            netdev=self.network.netdev(index),
            rom=self._rom,
            vars=make_vars(directory / "vars.fd", secure=self._secure, arm64=self._arm64) if self._uefi else None,
            secure=self._secure,
            arm64=self._arm64,
            clients=self._clients,
        )
        machine = Machine(hardware, directory, wrap=self.network.wrap())
        bmc = Bmc(name, hardware.uuid, machine.chassis, directory, user=_USER, password=secrets.token_hex(7), line=machine.line)
        return LabMachine(index, name, mac, disks, bmc, machine, self.network)

    async def _close(self) -> None:
        for one in self.machines:
            with contextlib.suppress(Exception):
                await one.bmc.close()
            with contextlib.suppress(Exception):
                await one.machine.close()
        if self._network is not None:
            await self._network.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _place() -> Path:
    """Where labs keep their files: paths of Unix sockets have 107 characters at most, so a deep TMPDIR does not do."""
    wanted = tempfile.gettempdir()
    return Path(wanted if len(wanted) <= _LONGEST_PLACE else "/tmp")


def sweep() -> None:
    """Remove the files of labs whose process is gone: SIGKILL leaves nothing else behind."""
    for path in _place().glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)
