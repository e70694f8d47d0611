"""VirtualBox by its program `VBoxManage`.

Its order of boot cannot change while a machine runs. So the choice is noted in the machine's extra data on the host, which
can, and comes into force when metald starts the machine. For a boot device for one boot the former order is noted as well,
and is set again before the next start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from metald.drivers.ssh_host.info import VBOX, uuid_of
from metald.drivers.ssh_host.platforms import KEY, Action, CommandPlatform, Machine, Place, Table, colons, first
from metald.model import BootDevice

_VBOX: Final = "VBoxManage"
_NEXT: Final = "metald/boot"
_FORMER: Final = "metald/order"
_SLOTS: Final = 4
_LINE: Final = re.compile(r'^"(.*)" (\{[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\})\r?$', re.MULTILINE)
_VALUE: Final = re.compile(r'^(\w+)="?([^"\r\n]*)"?\r?$', re.MULTILINE)
_WORDS: Final = frozenset(("net", "disk", "dvd", "floppy", "none"))


def machines(outputs: Sequence[str]) -> list[Machine]:
    """Reads `list vms` and `list runningvms`."""
    everything, running = (
        {
            key: found.group(1)
            for line in output.splitlines()
            if (found := _LINE.fullmatch(line.strip())) and (key := uuid_of(found.group(2)))
        }
        for output in outputs
    )
    return [Machine(key, name, key in running) for key, name in everything.items()]


def values(output: str) -> Mapping[str, str]:
    """Reads `showvminfo --machinereadable`."""
    return dict(_VALUE.findall(output))


def describe(keys: Sequence[str]) -> list[list[str]]:
    """A command for each machine: no other tells of the cards of several."""
    return [[_VBOX, "showvminfo", key, "--machinereadable"] for key in keys]


def addresses(output: str) -> Iterable[tuple[str, str]]:
    """Reads `showvminfo --machinereadable`."""
    found = values(output)
    key = uuid_of(found.get("UUID", "")) or ""
    return [(colons(value), key) for name, value in found.items() if name.startswith("macaddress")]


class VirtualBoxPlatform(CommandPlatform):
    """VBoxManage."""

    name = VBOX
    devices: Mapping[BootDevice, str] = {
        BootDevice.PXE: "net",
        BootDevice.DISK: "disk",
        BootDevice.CDROM: "dvd",
        BootDevice.FLOPPY: "floppy",
    }
    table = Table(
        listing=((_VBOX, "list", "vms"), (_VBOX, "list", "runningvms")),
        machines=machines,
        describe=describe,
        addresses=addresses,
        actions={
            Action.START: (_VBOX, "startvm", KEY, "--type", "headless"),
            Action.STOP: (_VBOX, "controlvm", KEY, "poweroff"),
            Action.SHUTDOWN: (_VBOX, "controlvm", KEY, "acpipowerbutton"),
            Action.RESET: (_VBOX, "controlvm", KEY, "reset"),
            Action.NMI: (_VBOX, "debugvm", KEY, "injectnmi"),
        },
    )

    async def act(self, place: Place, action: Action) -> None:
        """See `Platform.act`."""
        if action is Action.START:
            await self._apply(place)
        await super().act(place, action)

    async def _apply(self, place: Place) -> None:
        """Bring what is noted into force. Whatever is done twice, after a crash in between, comes to the same."""
        former = [word for word in (await self._note(place, _FORMER)).split(",") if word in _WORDS]
        if former:
            await self._order(place, former)
            await self._set_note(place, _FORMER, "")
        device, _, how = (await self._note(place, _NEXT)).partition(",")
        if device not in _WORDS:
            return
        order = await self._present(place)
        if how == "once":
            await self._set_note(place, _FORMER, ",".join(order))
        await self._order(place, first(device, order))
        await self._set_note(place, _NEXT, "")

    async def boot_device(self, place: Place) -> tuple[BootDevice | None, bool | None]:
        """See `Platform.boot_device`."""
        device, _, how = (await self._note(place, _NEXT)).partition(",")
        if device in _WORDS:
            return self.device_of(device), how != "once"
        former = (await self._note(place, _FORMER)).split(",")
        order = [former[0]] if former[0] in _WORDS else await self._present(place)
        found = self.device_of(order[0]) if order else None
        return found, None if found is None else True

    async def set_boot_device(self, place: Place, device: BootDevice, *, persistent: bool) -> None:
        """See `Platform.set_boot_device`."""
        word = self.devices[device]
        await self._set_note(place, _NEXT, word if persistent else f"{word},once")
        if persistent:
            await self._set_note(place, _FORMER, "")

    async def _present(self, place: Place) -> list[str]:
        found = values(await self.run(place, _VBOX, "showvminfo", KEY, "--machinereadable", again=True))
        return [word for slot in range(1, _SLOTS + 1) if (word := found.get(f"boot{slot}", "none")) in _WORDS - {"none"}]

    async def _order(self, place: Place, order: Sequence[str]) -> None:
        slots = [*order, *["none"] * _SLOTS][:_SLOTS]
        words = [word for slot, device in enumerate(slots, start=1) for word in (f"--boot{slot}", device)]
        await self.run(place, _VBOX, "modifyvm", KEY, *words)

    async def _note(self, place: Place, key: str) -> str:
        output = (await self.run(place, _VBOX, "getextradata", KEY, key, again=True)).strip()
        return output.removeprefix("Value:").strip() if output.startswith("Value:") else ""

    async def _set_note(self, place: Place, key: str, value: str) -> None:
        await self.run(place, _VBOX, "setextradata", KEY, key, *([value] if value else []))
