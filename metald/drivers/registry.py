"""Which hardware types exist, which implementations each admits, and which one a node uses.

Built once by the composition root; immutable afterwards. Outsiders add hardware types and implementations by the entry
points `metald.hardware_types` (a HardwareType) and `metald.interfaces` (a factory `Settings -> Interface`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points

from metald.config import Settings
from metald.drivers.base import HardwareType, Interface
from metald.errors import Invalid
from metald.model import INTERFACES, Node


class Registry:
    """The enabled hardware types and every implementation.

    Args:
        hardware_types: the enabled ones.
        interfaces: one object of each implementation.
    """

    def __init__(self, hardware_types: Iterable[HardwareType], interfaces: Iterable[Interface]) -> None:
        self._types = {t.name: t for t in hardware_types}
        self._interfaces: dict[tuple[str, str], Interface] = {(i.kind, i.name): i for i in interfaces}
        self._supported = {(t.name, kind): self._names(t, kind) for t in self._types.values() for kind in INTERFACES}

    def _names(self, hardware_type: HardwareType, kind: str) -> tuple[str, ...]:
        names = [n for n in hardware_type.interfaces.get(kind, ()) if (kind, n) in self._interfaces]
        if hardware_type.any_combination:
            names += [n for (k, n) in self._interfaces if k == kind and n not in names]
        return tuple(names)

    def hardware_types(self) -> Sequence[HardwareType]:
        """The enabled hardware types."""
        return tuple(self._types.values())

    def hardware_type(self, name: str) -> HardwareType:
        """The hardware type of this name.

        Raises:
            Invalid: it is unknown or not enabled.
        """
        found = self._types.get(name)
        if found is None:
            raise Invalid(
                f'No valid host was found. Reason: No conductor service registered which supports driver {name} for conductor group "".',
                remedy=f"Enabled hardware types: {', '.join(sorted(self._types))}.",
                field="driver",
            )
        return found

    def supported(self, driver: str, kind: str) -> Sequence[str]:
        """Implementations of an interface type that this hardware type admits, best first."""
        self.hardware_type(driver)
        return self._supported[driver, kind]

    def default(self, driver: str, kind: str) -> str:
        """The implementation a node gets when it names none.

        Raises:
            Invalid: the hardware type has none of this type.
        """
        names = self.supported(driver, kind)
        if not names:
            raise Invalid(f"Hardware type {driver} has no {kind} interface that is enabled.", field=f"{kind}_interface")
        return names[0]

    def check(self, node: Node) -> None:
        """Check that the node's driver is known and admits each of its interfaces.

        Raises:
            Invalid: names the field, and what it may be.
        """
        for kind in INTERFACES:
            name = node.interface(kind)
            if name is not None and name not in self.supported(node.driver, kind):
                raise Invalid(
                    f"Hardware type {node.driver} does not support {kind} interface {name}.",
                    remedy=f"Supported: {', '.join(self.supported(node.driver, kind)) or 'none'}.",
                    field=f"{kind}_interface",
                )
        self.hardware_type(node.driver)

    def interface(self, kind: str, name: str) -> Interface:
        """The implementation object.

        Raises:
            Invalid: there is none of this name.
        """
        found = self._interfaces.get((kind, name))
        if found is None:
            raise Invalid(f"There is no {kind} interface {name}.", field=f"{kind}_interface")
        return found

    def for_node(self, node: Node, kind: str) -> Interface:
        """The implementation that this node uses."""
        found = self.interface(kind, node.interface(kind) or self.default(node.driver, kind))
        name = found.stands_in(node)
        return self.interface(kind, name) if name else found

    def properties(self, driver: str) -> dict[str, str]:
        """driver_info keys that the default implementations of a hardware type read, each with its help text."""
        found: dict[str, str] = {}
        for kind in INTERFACES:
            for name in self.supported(driver, kind)[:1]:
                found.update(self.interface(kind, name).properties())
        return found


def outsiders(settings: Settings) -> tuple[list[HardwareType], list[Interface]]:
    """Hardware types and implementations that other installed packages offer by entry points."""
    types: list[HardwareType] = [point.load() for point in entry_points(group="metald.hardware_types")]
    interfaces: list[Interface] = [point.load()(settings) for point in entry_points(group="metald.interfaces")]
    return types, interfaces
