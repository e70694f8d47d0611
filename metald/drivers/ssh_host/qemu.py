"""Plain QEMU by its monitor (QMP), a Unix socket that sshd connects us to: nothing is run on the host.

The host keeps the process (a systemd unit with `-S` and `Restart=always`); metald switches the machine in it. Off is a
processor that stands still after a reset, which QEMU calls `prelaunch`; on is one that runs. The order of boot is in the
devices' `bootindex`, which QEMU reads at each reset: a device for one boot is really for one, and needs no memory but QEMU's.

QEMU's documents: docs/interop/qmp-spec (greeting, negotiation, events), qapi/run-state.json (RunState).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from metald.drivers.ssh_host.connection import Host
from metald.drivers.ssh_host.info import QEMU
from metald.drivers.ssh_host.platforms import Action, Place, Platform
from metald.drivers.ssh_library import gone
from metald.errors import HostRefused, HostUnreachable
from metald.model import BootDevice

if TYPE_CHECKING:
    import asyncssh

_RUNNING: Final = frozenset(("running", "debug", "io-error", "guest-panicked", "internal-error", "watchdog", "suspended"))
"""Run states of a machine that has power. The others, such as prelaunch, paused and shutdown, are those of one without."""
_LATER: Final = 1000
"""Added to the ranks of what a choice for one boot puts behind: `rank % 1000` is the order to come back to."""
_CONTAINERS: Final = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")
_TYPES: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("disk", ("virtio-blk-", "scsi-hd", "scsi-block", "ide-hd", "nvme", "usb-storage")),
    ("cdrom", ("scsi-cd", "ide-cd")),
    ("floppy", ("floppy",)),
    ("net", ("virtio-net-", "e1000", "igb", "rtl8139", "vmxnet3", "ne2k", "pcnet", "i82", "tulip", "usb-net", "spapr-vlan")),
)


class Monitor:
    """A conversation with one QEMU."""

    def __init__(self, label: str, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        self._label, self._reader, self._writer = label, reader, writer
        self._events: list[str] = []

    async def greet(self) -> None:
        """Take QEMU's greeting and begin."""
        if "QMP" not in await self._message():
            raise HostRefused(f"What listens at {self._label} is no QMP monitor.", remedy="Correct ssh_qmp_socket in driver_info.")
        await self.call("qmp_capabilities")

    async def call(self, command: str, **arguments: Any) -> Any:
        """Execute a command and return its answer.

        Raises:
            HostRefused: QEMU says no.
        """
        self._events.clear()
        self._writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = await self._message()
            if "error" in answer:
                error = answer["error"]
                said = error.get("desc") if isinstance(error, Mapping) else None
                raise HostRefused(f"QEMU at {self._label} refuses {command}: {said}.")
            if "return" in answer:
                return answer["return"]

    async def event(self, name: str) -> None:
        """Return once an event has come since the last command was sent."""
        while name not in self._events:
            await self._message()

    async def reset(self) -> None:
        """Reset the machine, and return when that is done."""
        await self.call("system_reset")
        await self.event("RESET")

    async def on(self) -> bool:
        """Whether the machine has power."""
        return (await self.call("query-status")).get("status") in _RUNNING

    async def _message(self) -> dict[str, Any]:
        line = await self._reader.readline()
        if not line:
            raise EOFError("QEMU ended the conversation")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise HostRefused(f"What listens at {self._label} is no QMP monitor.", remedy="Correct ssh_qmp_socket in driver_info.")
        if "event" in found:
            self._events.append(str(found["event"]))
        return found


class QemuPlatform(Platform):
    """QMP."""

    name = QEMU
    devices: Mapping[BootDevice, str] = {
        BootDevice.PXE: "net",
        BootDevice.DISK: "disk",
        BootDevice.CDROM: "cdrom",
        BootDevice.FLOPPY: "floppy",
    }

    async def is_on(self, host: Host, place: Place) -> bool:
        """Whether the machine has power."""
        async with _monitor(host, place) as monitor:
            return await monitor.on()

    async def act(self, place: Place, action: Action) -> None:
        """See `Platform.act`."""
        async with _monitor(place.host, place) as monitor:
            if action is Action.START:
                await _start(monitor)
            elif action is Action.STOP:
                await monitor.call("stop")
                await monitor.reset()
            elif action is Action.RESET:
                await monitor.reset()
            else:
                await monitor.call({Action.SHUTDOWN: "system_powerdown", Action.NMI: "inject-nmi"}[action])

    async def boot_device(self, place: Place) -> tuple[BootDevice | None, bool | None]:
        """See `Platform.boot_device`."""
        async with _monitor(place.host, place) as monitor:
            found = await _bootable(monitor)
        ranks = {path: rank for path, _, rank in found if rank >= 0}
        if not ranks:
            return None, None
        kind = {path: kind for path, kind, _ in found}[min(ranks, key=lambda path: ranks[path])]
        return self.device_of(kind), max(ranks.values()) < _LATER

    async def set_boot_device(self, place: Place, device: BootDevice, *, persistent: bool) -> None:
        """See `Platform.set_boot_device`."""
        word = self.devices[device]
        async with _monitor(place.host, place) as monitor:
            found = await _bootable(monitor)
            if not any(kind == word for _, kind, _ in found):
                raise place.lacks(device, "on QEMU's command line")
            base = _base(found)
            wanted = [path for path in base if any(path == one and kind == word for one, kind, _ in found)]
            if persistent:
                order = [*wanted, *(path for path in base if path not in wanted)]
                ranks = {path: rank for rank, path in enumerate(order)}
            else:
                ranks = {path: rank + (0 if path in wanted else _LATER) for rank, path in enumerate(base)}
            await _rank(monitor, found, ranks)


async def _start(monitor: Monitor) -> None:
    if await monitor.on():
        return
    await monitor.reset()
    await monitor.call("cont")
    found = await _bootable(monitor)
    if any(rank >= _LATER for _, _, rank in found):
        await _rank(monitor, found, {path: rank for rank, path in enumerate(_base(found))})


def _base(found: Sequence[tuple[str, str, int]]) -> list[str]:
    """The order that holds for every boot: ranked devices first, the others behind them."""
    return [path for path, _, rank in sorted(found, key=lambda entry: entry[2] % _LATER if entry[2] >= 0 else _LATER)]


async def _bootable(monitor: Monitor) -> list[tuple[str, str, int]]:
    """Every device that the machine may boot from: its path, its kind, its rank (-1: none)."""
    found: list[tuple[str, str, int]] = []
    for container in _CONTAINERS:
        for child in await monitor.call("qom-list", path=container):
            kind = _kind(str(child.get("type", "")))
            if kind is None:
                continue
            path = f"{container}/{child['name']}"
            try:
                rank = await monitor.call("qom-get", path=path, property="bootindex")
            except HostRefused:
                continue  # a device that cannot be ranked
            found.append((path, kind, int(rank)))
    return found


def _kind(text: str) -> str | None:
    name = text.removeprefix("child<")
    return next((kind for kind, starts in _TYPES if name.startswith(starts)), None) if name != text else None


async def _rank(monitor: Monitor, found: Sequence[tuple[str, str, int]], ranks: Mapping[str, int]) -> None:
    """Set the order. No two devices may have one rank, not even in between."""
    if {path: rank for path, _, rank in found} == ranks:
        return
    for path, _, rank in found:
        if rank >= 0:
            await monitor.call("qom-set", path=path, property="bootindex", value=-1)
    for path, rank in ranks.items():
        await monitor.call("qom-set", path=path, property="bootindex", value=rank)


@asynccontextmanager
async def _monitor(host: Host, place: Place) -> AsyncIterator[Monitor]:
    """A conversation of its own. QEMU holds one at a time, so ours wait for each other here."""
    path, limit = place.info.qmp_socket, host.settings.command_timeout
    label = f"{path} on {host.info.label}"
    async with host.turn(path):
        try:
            async with host.channel(path) as (reader, writer), asyncio.timeout(limit):
                monitor = Monitor(label, reader, writer)
                await monitor.greet()
                yield monitor
        except TimeoutError:
            raise HostUnreachable(
                f"QEMU at {label} did not answer in {limit:g} seconds.",
                remedy="Only one program can use a monitor: end what else does, or give metald a monitor of its own.",
            ) from None
        except gone() as error:
            raise HostUnreachable(f"The conversation with QEMU at {label} broke off: {str(error) or type(error).__name__}.") from None
