"""The machines of the matrix as it sees them: a node's name in the API, and what its machine has counted and suffered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping

from lab.matrix.hardware import Ledger
from lab.matrix.verbs import COUNTED, FAKE, WIRE, Verb
from metald.sim.blade import Blade
from metald.sim.story import Story


class Machine(ABC):
    """One machine.

    Args:
        name: of its node.
    """

    verbs: Mapping[str, tuple[Verb, ...]]

    def __init__(self, name: str) -> None:
        self.name = name
        self.uuid = ""
        self.instance_info: dict[str, str] = {}
        """What its node must say before it can be deployed."""

    @abstractmethod
    def counts(self) -> Counter[str]:
        """Everything that it has done."""

    @abstractmethod
    def faults(self) -> int:
        """How many strokes of fate the matrix has dealt it."""

    @abstractmethod
    def is_on(self) -> bool:
        """Its power."""

    def settled(self) -> bool:
        """Whether it has come to where it was sent: what it counts then stays."""
        return True

    def wrong(self, seen: Counter[str], expected: Mapping[str, int]) -> str:
        """What was not done exactly once; empty when all is as it must be."""
        return _difference(seen, Counter(expected))


class Outside(Machine):
    """A fake machine outside the daemon."""

    verbs = FAKE

    def __init__(self, name: str, ledger: Ledger) -> None:
        super().__init__(name)
        self._ledger = ledger

    def counts(self) -> Counter[str]:
        """See Machine."""
        counts = self._ledger.of(self.uuid)
        del counts["fault"]
        return counts

    def faults(self) -> int:
        """See Machine."""
        return self._ledger.of(self.uuid)["fault"]

    def is_on(self) -> bool:
        """See Machine."""
        counts = self._ledger.of(self.uuid)
        return counts["power_on"] > counts["power_off"]


class Fates:
    """How often chance struck each machine of a simulated fleet, from its story.

    Args:
        story: of the fleet.
    """

    def __init__(self, story: Story) -> None:
        self._story = story
        self._next = 0
        self._struck: Counter[str] = Counter()

    def of(self, name: str) -> int:
        """How often it struck this one."""
        while True:
            lines, following = self._story.since(self._next)
            self._struck.update(line["node"] for line in lines if line["event"] == "fault")
            if following == self._next:
                return self._struck[name]
            self._next = following


class OnWire(Machine):
    """A machine of the simulated fleet, behind its BMC."""

    verbs = WIRE

    def __init__(self, blade: Blade, fates: Fates) -> None:
        super().__init__(blade.name)
        self.blade = blade
        self._fates = fates

    def counts(self) -> Counter[str]:
        """See Machine. Only effects: what its BMC was asked is none."""
        report = self.blade.report()
        return Counter({name: int(report.get(name, 0)) for name in (*COUNTED, "nothing_to_boot")})

    def faults(self) -> int:
        """See Machine."""
        return self._fates.of(self.name)

    def is_on(self) -> bool:
        """See Machine."""
        return self.blade.bmc.power

    def settled(self) -> bool:
        """See Machine."""
        return self.blade.running == ("instance" if self.is_on() else "")

    def wrong(self, seen: Counter[str], expected: Mapping[str, int]) -> str:
        """See Machine. A machine that asked for its boot while the daemon was dead may be booted once more: never written once more."""
        only = Counter({name: seen[name] for name in COUNTED if seen[name]})
        wanted = Counter(expected)
        more = only["power_on"] - wanted["power_on"]
        if 0 < more <= seen["nothing_to_boot"] + max(0, seen["disk_boots"] - wanted["disk_boots"]):
            wanted["power_on"] += more
            wanted["power_off"] += more
            wanted["disk_boots"] = only["disk_boots"]
        return _difference(only, wanted)


def _difference(seen: Counter[str], wanted: Counter[str]) -> str:
    names = sorted({name for name in (*seen, *wanted) if seen[name] != wanted[name]})
    return ", ".join(f"{name} {seen[name]} instead of {wanted[name]}" for name in names)
