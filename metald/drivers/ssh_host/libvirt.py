"""Libvirt by its program `virsh`.

One command lists all domains with their states. The order of boot is in the domain's persistent definition, which may be
changed while it runs and holds from the next start on. A boot device for one boot is noted in the domain's metadata on the
host; the domain is then started from a definition of that moment (`virsh create`), beside which the persistent one stays as
it is. "One boot" ends when the machine is switched off: until then it keeps to that device even when it restarts itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from metald.drivers.ssh_host.info import VIRSH, uuid_of
from metald.drivers.ssh_host.platforms import KEY, URI, Action, CommandPlatform, Machine, Place, Table
from metald.errors import DriverError
from metald.model import BootDevice

_NAMESPACE: Final = "https://metald/boot"
_NOTE: Final = ("--uri", _NAMESPACE, "--config")
_VIRSH: Final = ("virsh", "--quiet", "--connect", URI)
_TOGETHER: Final = 50
"""Domains that one command describes."""
_OFF: Final = frozenset(("0", "5"))
"""virDomainState: no state, shut off. A paused, crashed or sleeping one holds its memory and is on, as a hung machine is."""
_LINE: Final = re.compile(r"([0-9a-f-]{36}) (.+)")
_DEVICES: Final = {"network": "interface", "hd": "disk", "cdrom": "disk", "fd": "disk"}
"""Elements of the domain that may have an order of their own, by the name of the boot device."""
_DISKS: Final = {"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}


def machines(outputs: Sequence[str]) -> list[Machine]:
    """Reads `list --all --uuid --name; domstats --state`.

    A domain that came or went between the two is left out, and so are two of one name, which libvirt does not have.
    """
    keys: dict[str, str] = {}
    states: dict[str, str] = {}
    name = ""
    for line in outputs[0].split("\n"):
        if found := _LINE.fullmatch(line):
            if uuid_of(found.group(1)):
                keys[found.group(2)] = found.group(1)
        elif line.startswith("Domain: '") and line.endswith("'"):
            name = line[len("Domain: '") : -1]
        elif line.strip().startswith("state.state="):
            states[name] = line.strip().removeprefix("state.state=")
    return [Machine(key, name, states[name] not in _OFF) for name, key in keys.items() if name in states]


def describe(keys: Sequence[str]) -> list[list[str]]:
    """Commands that show definitions, many in one command. Keys are UUIDs, so that the one string holds no foreign words."""
    return [
        [*_VIRSH, "; ".join(f"dumpxml {key} --inactive" for key in keys[begin : begin + _TOGETHER])]
        for begin in range(0, len(keys), _TOGETHER)
    ]


def addresses(output: str) -> Iterable[tuple[str, str]]:
    """Reads definitions."""
    for text in re.findall(r"<domain .*?</domain>", output, re.DOTALL):
        domain = _parsed(text)
        key = domain.findtext("uuid") or ""
        for card in domain.iterfind("devices/interface/mac"):
            yield str(card.get("address")).lower(), key


TABLE: Final = Table(
    listing=((*_VIRSH, "list --all --uuid --name; domstats --state"),),
    machines=machines,
    describe=describe,
    addresses=addresses,
    actions={
        Action.START: (*_VIRSH, "start", KEY),
        Action.STOP: (*_VIRSH, "destroy", KEY),
        Action.SHUTDOWN: (*_VIRSH, "shutdown", KEY),
        Action.RESET: (*_VIRSH, "reset", KEY),
        Action.NMI: (*_VIRSH, "inject-nmi", KEY),
    },
)


class LibvirtPlatform(CommandPlatform):
    """virsh."""

    name = VIRSH
    table = TABLE
    devices: Mapping[BootDevice, str] = {
        BootDevice.PXE: "network",
        BootDevice.DISK: "hd",
        BootDevice.CDROM: "cdrom",
        BootDevice.FLOPPY: "fd",
    }

    async def act(self, place: Place, action: Action) -> None:
        """See `Platform.act`."""
        if action is not Action.START:
            await super().act(place, action)
            return
        domain = await self._definition(place)
        once = noted(domain)
        if once is None:
            await super().act(place, action)
            return
        forget(domain)
        put_first(domain, once)
        # The note goes last: without it the choice would be lost when we die in between.
        await self.run(place, *_VIRSH, "create", "/dev/stdin", data=_text(domain))
        await self._forget(place)

    async def boot_device(self, place: Place) -> tuple[BootDevice | None, bool | None]:
        """See `Platform.boot_device`."""
        domain = await self._definition(place)
        once = noted(domain)
        if once is not None:
            return self.device_of(once), False
        order = boot_order(domain)
        return (self.device_of(order[0]), True) if order else (None, None)

    async def set_boot_device(self, place: Place, device: BootDevice, *, persistent: bool) -> None:
        """See `Platform.set_boot_device`."""
        domain, word = await self._definition(place), self.devices[device]
        if not has(domain, word):
            raise place.lacks(device, "in libvirt")
        if not persistent:
            await self.run(place, *_VIRSH, "metadata", KEY, *_NOTE, "--key", "metald", "--set", f"<boot device='{word}'/>")
            return
        if noted(domain) is not None:
            forget(domain)
        elif boot_order(domain)[:1] == [word]:
            return
        put_first(domain, word)
        await self.run(place, *_VIRSH, "define", "/dev/stdin", data=_text(domain))

    async def console(self, place: Place) -> Sequence[str]:
        """See `Platform.console`."""
        return self.words((*_VIRSH, "console", KEY, "--force"), place.info, place.key)

    async def _definition(self, place: Place) -> ET.Element:
        """The persistent definition, with the passwords that must not be lost when it is defined again."""
        return _parsed(await self.run(place, *_VIRSH, "dumpxml", KEY, "--inactive", "--security-info", again=True))

    async def _forget(self, place: Place) -> None:
        await self.run(place, *_VIRSH, "metadata", KEY, *_NOTE, "--remove", again=True)


def _parsed(text: str) -> ET.Element:
    if "<!" in text.replace("<!--", ""):
        raise DriverError("The host's definition of the machine holds declarations, which libvirt does not write.")
    try:
        return ET.fromstring(text)  # noqa: S314 - without declarations there are no entities to expand
    except ET.ParseError as error:
        raise DriverError(f"The host's definition of the machine cannot be read: {error}.") from None


def _text(domain: ET.Element) -> str:
    return ET.tostring(domain, encoding="unicode")


def noted(domain: ET.Element) -> str | None:
    """The boot device of the next boot only."""
    found = domain.find(f"metadata/{{{_NAMESPACE}}}boot")
    return found.get("device") if found is not None and found.get("device") in _DEVICES else None


def forget(domain: ET.Element) -> None:
    """Take the note of the next boot away."""
    metadata = domain.find("metadata")
    for note in domain.findall(f"metadata/{{{_NAMESPACE}}}boot"):
        assert metadata is not None
        metadata.remove(note)


def _bootable(domain: ET.Element) -> list[tuple[str, ET.Element]]:
    """The elements that a machine may boot from, each with the name of its boot device."""
    found: list[tuple[str, ET.Element]] = []
    for element in domain.iterfind("devices/*"):
        if element.tag == "interface":
            found.append(("network", element))
        elif element.tag == "disk":
            found.append((_DISKS.get(element.get("device", "disk"), ""), element))
    return found


def _ranked(domain: ET.Element) -> list[tuple[str, ET.Element]]:
    """Those that have an order of their own, in that order."""
    own = [(name, element, element.find("boot")) for name, element in _bootable(domain)]
    ranks = [(int(boot.get("order", "0")), name, element) for name, element, boot in own if boot is not None]
    return [(name, element) for _, name, element in sorted(ranks, key=lambda entry: entry[0])]


def has(domain: ET.Element, word: str) -> bool:
    """Whether the machine has such a device."""
    return any(name == word for name, _ in _bootable(domain))


def boot_order(domain: ET.Element) -> list[str]:
    """The boot devices in their order."""
    ranked = [name for name, _ in _ranked(domain)]
    return list(dict.fromkeys(ranked or [str(boot.get("dev")) for boot in domain.iterfind("os/boot")]))


def put_first(domain: ET.Element, word: str) -> None:
    """Have the machine try a device before every other, whichever of libvirt's two ways of saying so it uses."""
    ranked = _ranked(domain)
    if ranked:
        wanted = [element for name, element in ranked if name == word] or [element for name, element in _bootable(domain) if name == word]
        others = [element for name, element in ranked if name != word]
        for rank, element in enumerate([*wanted, *others], start=1):
            boot = element.find("boot")
            if boot is None:
                boot = ET.SubElement(element, "boot")
            boot.set("order", str(rank))
        return
    system = domain.find("os")
    if system is None:
        system = ET.SubElement(domain, "os")
    order = [word, *(name for name in boot_order(domain) if name != word)]
    for boot in system.findall("boot"):
        system.remove(boot)
    for name in order:
        ET.SubElement(system, "boot", {"dev": name})
