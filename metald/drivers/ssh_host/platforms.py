"""What a virtualisation software can do for metald, and platforms that are driven by commands, as tables of words.

Rules: a machine is named in commands by its UUID as the host listed it, never by a name; `{key}` and `{uri}` stand for whole
words of a command; what the programs print is parsed by the pure functions that a table names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from metald.drivers.ssh_host.connection import Host
from metald.drivers.ssh_host.info import MachineInfo
from metald.errors import HostRefused, Unsupported
from metald.model import BootDevice

KEY: Final = "{key}"
URI: Final = "{uri}"


class Action(StrEnum):
    """What can be done to a machine."""

    START = "start"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    RESET = "reset"
    NMI = "nmi"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its host lists it."""

    key: str
    """Its UUID."""
    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A machine that was found on its host."""

    host: Host
    info: MachineInfo
    key: str = ""
    """Its UUID on the host; empty where the platform has no list."""

    @property
    def label(self) -> str:
        """What error texts call it."""
        return f"machine {self.info.name or self.key or self.info.qmp_socket} on {self.info.host.label}"

    def lacks(self, device: BootDevice, where: str) -> HostRefused:
        """The error that says that the machine has no such device."""
        return HostRefused(f"Node {self.info.node}: {self.label} has no {device.value} to boot from.", remedy=f"Give it one {where}.")


class Platform(ABC):
    """Drives machines of one virtualisation software. Each method raises a DriverError when the host says no."""

    name: str
    devices: Mapping[BootDevice, str]
    """Boot devices, and what the platform calls them."""

    @abstractmethod
    async def act(self, place: Place, action: Action) -> None:
        """Do something to a machine. START starts one that is off, with its boot device of the next boot.

        Raises:
            Unsupported: the platform cannot.
        """

    @abstractmethod
    async def boot_device(self, place: Place) -> tuple[BootDevice | None, bool | None]:
        """What the machine boots from next, and whether every time; None is unknown."""

    @abstractmethod
    async def set_boot_device(self, place: Place, device: BootDevice, *, persistent: bool) -> None:
        """Choose what the machine boots from, next or every time."""

    async def console(self, place: Place) -> Sequence[str] | None:  # noqa: ARG002
        """The command that shows the machine's serial console on a terminal; None where there is none."""
        return None

    def device_of(self, word: str) -> BootDevice | None:
        """The boot device that the platform calls so."""
        return next((device for device, name in self.devices.items() if name == word), None)


@dataclass(frozen=True, slots=True)
class Table:
    """The commands of a platform."""

    listing: Sequence[Sequence[str]]
    """Commands whose outputs together tell of every machine."""
    machines: Callable[[Sequence[str]], list[Machine]]
    """Reads the outputs of `listing`."""
    describe: Callable[[Sequence[str]], list[list[str]]]
    """Commands that tell of the machines with these keys, among other things the addresses of their cards."""
    addresses: Callable[[str], Iterable[tuple[str, str]]]
    """Reads an output of `describe`: a card's address, in lower case with colons, and its machine's key."""
    actions: Mapping[Action, Sequence[str]]


class CommandPlatform(Platform):
    """A platform with a command-line program.

    Args:
        table: its commands.
        libvirt_uri: stands for `{uri}` for machines that name none.
    """

    table: Table

    def __init__(self, libvirt_uri: str = "") -> None:
        self._uri = libvirt_uri

    async def machines(self, host: Host, info: MachineInfo) -> list[Machine]:
        """Every machine of the host, in one or two commands."""
        return self.table.machines([await host.run(self.words(argv, info), again=True) for argv in self.table.listing])

    async def addresses(self, host: Host, info: MachineInfo, keys: Sequence[str]) -> list[tuple[str, str]]:
        """The addresses of the cards of machines, each with its machine's key."""
        outputs = [await host.run(self.words(argv, info), again=True) for argv in self.table.describe(keys)]
        return [pair for output in outputs for pair in self.table.addresses(output)]

    def words(self, argv: Sequence[str], info: MachineInfo, key: str = "") -> list[str]:
        """A command of the table for one machine."""
        values = {KEY: key, URI: info.uri or self._uri}
        return [values.get(word, word) for word in argv]

    async def run(self, place: Place, *argv: str, data: str = "", again: bool = False) -> str:
        """Run a command for a machine."""
        return await place.host.run(self.words(argv, place.info, place.key), data=data, again=again)

    async def act(self, place: Place, action: Action) -> None:
        """See `Platform.act`."""
        argv = self.table.actions.get(action)
        if argv is None:
            raise Unsupported(f"Node {place.info.node}: {self.name} has no {action.value}.", field="driver_info")
        await self.run(place, *argv)


def colons(digits: str) -> str:
    """An address of twelve hexadecimal digits in the usual form."""
    digits = digits.lower().replace(":", "").replace("-", "")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def first(wanted: str, order: Iterable[str]) -> list[str]:
    """An order with one thing moved to its beginning."""
    return [wanted, *(word for word in order if word != wanted)]
