"""Parallels Desktop and Parallels Server by their program `prlctl`.

There is one order of boot and no other for the next boot alone: a boot device that was asked for once stays until another is
asked for. Each is therefore shown as one of which it is not known whether it is for every boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from metald.drivers.ssh_host.info import PARALLELS, uuid_of
from metald.drivers.ssh_host.platforms import KEY, Action, CommandPlatform, Machine, Place, Table, colons
from metald.model import BootDevice

_PRLCTL: Final = "prlctl"
_LINE: Final = re.compile(r"(\{[0-9a-fA-F-]{36}\}) +(\S+) +(.+)")
_ID: Final = re.compile(r"^ID: *(\{[0-9a-fA-F-]{36}\})", re.MULTILINE)
_CARD: Final = re.compile(r"^ *net\d+ .*?\bmac=([0-9A-Fa-f]{12})\b", re.MULTILINE)
_ORDER: Final = re.compile(r"^ *Boot order: *(.*)$", re.MULTILINE)
_OFF: Final = frozenset(("stopped", "suspended", "invalid"))


def machines(outputs: Sequence[str]) -> list[Machine]:
    """Reads `list --all --output uuid,status,name`."""
    lines = (_LINE.fullmatch(line.strip()) for line in outputs[0].splitlines())
    return [
        Machine(key, found.group(3), found.group(2).lower() not in _OFF) for found in lines if found and (key := uuid_of(found.group(1)))
    ]


def describe(keys: Sequence[str]) -> list[list[str]]:
    """One command for all."""
    return [[_PRLCTL, "list", "--all", "--info"]] if keys else []


def addresses(output: str) -> Iterable[tuple[str, str]]:
    """Reads `list --all --info`: a block for each machine, which begins with its ID."""
    begins = list(_ID.finditer(output))
    for found, following in zip(begins, [*begins[1:], None], strict=True):
        block = output[found.start() : following.start() if following else None]
        for card in _CARD.findall(block):
            yield colons(card), uuid_of(found.group(1)) or ""


class ParallelsPlatform(CommandPlatform):
    """prlctl."""

    name = PARALLELS
    devices: Mapping[BootDevice, str] = {BootDevice.PXE: "net", BootDevice.DISK: "hdd", BootDevice.CDROM: "cdrom", BootDevice.FLOPPY: "fdd"}
    table = Table(
        listing=((_PRLCTL, "list", "--all", "--output", "uuid,status,name"),),
        machines=machines,
        describe=describe,
        addresses=addresses,
        actions={
            Action.START: (_PRLCTL, "start", KEY),
            Action.STOP: (_PRLCTL, "stop", KEY, "--kill"),
            Action.SHUTDOWN: (_PRLCTL, "stop", KEY, "--acpi"),
            Action.RESET: (_PRLCTL, "reset", KEY),
        },
    )

    async def boot_device(self, place: Place) -> tuple[BootDevice | None, bool | None]:
        """See `Platform.boot_device`."""
        order = await self._order(place)
        return (self.device_of(order[0].rstrip("0123456789")) if order else None), None

    async def set_boot_device(self, place: Place, device: BootDevice, *, persistent: bool) -> None:  # noqa: ARG002
        """See `Platform.set_boot_device`. Always for every boot."""
        word, order = self.devices[device], await self._order(place)
        wanted = [name for name in order if name.rstrip("0123456789") == word]
        if not wanted:
            raise place.lacks(device, "in Parallels")
        if order[: len(wanted)] != wanted:
            order = [*wanted, *(name for name in order if name not in wanted)]
            await self.run(place, _PRLCTL, "set", KEY, "--device-bootorder", " ".join(order))

    async def _order(self, place: Place) -> list[str]:
        found = _ORDER.search(await self.run(place, _PRLCTL, "list", "--info", KEY, again=True))
        return [word for word in found.group(1).split() if re.fullmatch(r"[a-z]+\d*", word)] if found else []
