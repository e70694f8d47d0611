"""What goes wrong in a simulated fleet: names of faults, whom they strike, and how chance is replayed.

    loss=0.05  delay=0.3  dead=10%  lying=2%  stuck=1%  bmc-restart=5%  hung-post=3%  agent-dies=3%  slow-disk=20%:10M  no-network=1%

Rules:

- Chance is a function of the seed, the machine, the fault and how many times it was asked: neither the order of things nor
  the clock changes it, so the same seed tells each machine the same story.
- A share (`10%`) strikes whole machines, chosen by the seed; of `bmc-restart`, `hung-post` and `agent-dies` it is the chance at
  each power-on or boot. A value may be confined to a share of the machines: `loss=0.3@10%`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from metald.sim.chassis import SimBmc


class FaultError(Exception):
    """A fault's description makes no sense; the text says what is allowed."""


@dataclass(slots=True)
class Wrongs:
    """What is wrong with one light machine, apart from its BMC's own `Faults`."""

    hung_post: float = 0.0
    """Chance that the firmware hangs after a power-on; it stays hung until the next."""
    agent_dies: float = 0.0
    """Chance that the ramdisk of a boot dies within its first write, or soon after its first command when it writes nothing."""
    bmc_restart: float = 0.0
    """Chance that the BMC restarts right after a power-on and is silent for some seconds."""
    slow_disk: float = 0.0
    """Bytes a second; 0 is as fast as can be."""
    no_network: bool = False
    """The network boot gets no address."""


KINDS: Final = {
    "loss": ("bmc", "loss", "share"),
    "delay": ("bmc", "delay", "number"),
    "power-delay": ("bmc", "power_delay", "number"),
    "dead": ("bmc", "dead", "who"),
    "stuck": ("bmc", "power_stuck", "who"),
    "lying": ("bmc", "power_shown", "who"),
    "ignore-soft": ("bmc", "ignore_soft", "who"),
    "no-network": ("machine", "no_network", "who"),
    "hung-post": ("machine", "hung_post", "share"),
    "agent-dies": ("machine", "agent_dies", "share"),
    "bmc-restart": ("machine", "bmc_restart", "share"),
    "slow-disk": ("machine", "slow_disk", "number"),
}
"""Fault -> where it is, its field, and what its value says: a share, a number, or only who has it."""

_SUFFIXES = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LYING_POWER = "off"
SLOW_DISK: Final = 10.0 * (1 << 20)


def chance(seed: object, *what: object) -> float:
    """A number in [0, 1) that the arguments alone decide."""
    digest = hashlib.blake2b("/".join(map(str, (seed, *what))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / (1 << 64)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and whom it strikes."""

    name: str
    value: float
    who: float = 1.0
    """Share of the machines."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `NAME=VALUE[@SHARE]`, or `NAME=SHARE[:VALUE]` of those that strike whole machines.

        Raises:
            FaultError: names what is wrong.
        """
        name, equals, given = text.strip().partition("=")
        if name not in KINDS or not equals:
            raise FaultError(f"{text!r} is no fault. Write NAME=VALUE with one of: {', '.join(KINDS)}.")
        value, _, who = given.partition("@")
        try:
            if KINDS[name][2] == "who":
                return cls(name, 1.0, _share(value))
            if KINDS[name][2] == "number":
                if "%" in value:
                    share, _, number = value.partition(":")
                    return cls(name, _number(number) if number else SLOW_DISK, _share(share))
                return cls(name, _number(value), _share(who or "1"))
            return cls(name, _share(value), _share(who or "1"))
        except ValueError as error:
            raise FaultError(f"The fault {text!r} cannot be read: {error}.") from None

    def strikes(self, seed: object, machine: str) -> bool:
        """Whether the machine is one of those."""
        return self.who >= 1 or chance(seed, machine, self.name, "who") < self.who

    def give(self, bmc: SimBmc, wrongs: Wrongs) -> None:
        """Let the machine have it."""
        change(self.name, self.value, bmc, wrongs)


def change(name: str, value: Any, bmc: SimBmc, wrongs: Wrongs) -> None:
    """Set a fault of one machine; 0 or false ends it.

    Raises:
        FaultError: there is no such fault, or the value is none.
    """
    if name not in KINDS:
        raise FaultError(f"There is no fault {name!r}. There are: {', '.join(KINDS)}.")
    where, field, kind = KINDS[name]
    if isinstance(value, str):
        try:
            value = _share(value) if kind != "number" else _number(value)
        except ValueError as error:
            raise FaultError(f"The value of {name} cannot be read: {error}.") from None
    if not isinstance(value, bool | int | float) or value < 0:
        raise FaultError(f"The value of {name} must be a number, true or false.")
    target: Any = bmc.faults if where == "bmc" else wrongs
    if name == "lying":
        target.power_shown = _LYING_POWER if value else ""
    else:
        setattr(target, field, bool(value) if kind == "who" else float(value))


def shown(bmc: SimBmc, wrongs: Wrongs) -> dict[str, Any]:
    """The faults that a machine has, by name."""
    found = {}
    for name, (where, field, _) in KINDS.items():
        value = getattr(bmc.faults if where == "bmc" else wrongs, field)
        if value:
            found[name] = value
    return found


def clear(bmc: SimBmc, wrongs: Wrongs) -> None:
    """End every fault of a machine."""
    bmc.faults = type(bmc.faults)()
    for one in fields(Wrongs):
        setattr(wrongs, one.name, one.default)


def spread(faults: Iterable[Fault], seed: object, machine: str, bmc: SimBmc, wrongs: Wrongs) -> None:
    """Give a machine the faults that strike it."""
    for fault in faults:
        if fault.strikes(seed, machine):
            fault.give(bmc, wrongs)


def share(text: str) -> float:
    """`10%` or `0.1`.

    Raises:
        FaultError: it is neither.
    """
    try:
        return _share(text)
    except ValueError as error:
        raise FaultError(str(error)) from None


def _share(text: str) -> float:
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no share; write 10% or 0.1") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not between 0 and 100%")
    return value


def _number(text: str) -> float:
    factor = _SUFFIXES.get(text[-1:], 1)
    try:
        value = float(text.rstrip("kMG")) * factor
    except ValueError:
        raise ValueError(f"{text!r} is no number; write 0.3 or 10M") from None
    if not 0 <= value < 1e18:
        raise ValueError(f"{text!r} is out of range")
    return value
