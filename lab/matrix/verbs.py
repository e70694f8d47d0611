"""What the matrix asks of a node, where that leads, and what the machine sees of it when it is done exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple


class Verb(NamedTuple):
    """One thing to ask for."""

    name: str
    target: str
    """Of the provision verb, or of a power change."""
    goal: str
    """Provision state that it leads to; of a power change the power state."""
    effects: Mapping[str, int] = MappingProxyType({})
    """What the machine counts when it was off before."""
    when_on: Mapping[str, int] = MappingProxyType({})
    """What it counts more, or less, when it was on."""
    body: Mapping[str, Any] = MappingProxyType({})
    """What else the request says."""

    @property
    def is_power(self) -> bool:
        """Whether it changes the power alone."""
        return self.goal.startswith("power")

    def expected(self, was_on: bool) -> dict[str, int]:
        """What the machine counts."""
        found = dict(self.effects)
        for name, more in self.when_on.items() if was_on else ():
            found[name] = found.get(name, 0) + more
        return found


COUNTED: Final = frozenset({"power_on", "power_off", "reset", "cycle", "writes_started", "writes_done", "ramdisks", "disk_boots"})
"""What is compared of a machine on the wire. Of one outside it everything is."""

_OFF = {"power_off": 1}
_BOOT = {"power_on": 1, "disk_boots": 1}
_WRITE = {"writes_started": 1, "writes_done": 1, "ramdisks": 1, "power_on": 2, "power_off": 1, "disk_boots": 1}
_CLEAN = {"ramdisks": 1, "power_on": 1, "power_off": 1}

FAKE: Final[Mapping[str, tuple[Verb, ...]]] = {
    "available": (
        Verb("deploy", "active", "active", {"deploy": 1, "power_on": 1}, {"power_on": -1}),
        Verb("manage", "manage", "manageable"),
    ),
    "manageable": (Verb("inspect", "inspect", "manageable", {"inspect": 1}), Verb("provide", "provide", "available")),
    "active": (
        Verb("delete", "deleted", "available", {}, _OFF),
        Verb("rebuild", "rebuild", "active", {"deploy": 1, "power_on": 1}, {"power_on": -1}),
        Verb("rescue", "rescue", "rescue", {"rescue": 1}, {}, {"rescue_password": "correct horse"}),
        Verb("power off", "power off", "power off", {}, _OFF),
        Verb("power on", "power on", "power on", {"power_on": 1}, {"power_on": -1}),
        Verb("reboot", "rebooting", "power on", {"power_on": 1}, _OFF),
    ),
    "rescue": (Verb("unrescue", "unrescue", "active", {"rescue": 1}), Verb("delete", "deleted", "available", {}, _OFF)),
}
WIRE: Final[Mapping[str, tuple[Verb, ...]]] = {
    "available": (Verb("deploy", "active", "active", _WRITE, _OFF),),
    "active": (
        Verb("delete", "deleted", "available", _CLEAN, _OFF),
        Verb("rebuild", "rebuild", "active", _WRITE, _OFF),
        Verb("power off", "power off", "power off", {}, _OFF),
        Verb("power on", "power on", "power on", _BOOT, {"power_on": -1, "disk_boots": -1}),
        Verb("reboot", "rebooting", "power on", _BOOT, _OFF),
    ),
}
RECOVERY: Final[Mapping[str, Verb]] = {
    "deploy failed": Verb("deploy again", "active", "active"),
    "clean failed": Verb("manage", "manage", "manageable"),
    "inspect failed": Verb("manage", "manage", "manageable"),
    "rescue failed": Verb("delete", "deleted", "available"),
    "unrescue failed": Verb("delete", "deleted", "available"),
    "error": Verb("delete", "deleted", "available"),
    "manageable": Verb("provide", "provide", "available"),
}
"""What leads on a node that has failed. What the machine sees of it depends on where it failed."""
