"""The contracts of the interfaces that not every machine has: BIOS, console, firmware, RAID and vendor methods.

Settings and firmware of a machine are kept in its `Internals`: a step reads them from its context and changes them with
`set_internals`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

from metald.drivers.base import Interface, NodeContext, Outcome, StepContext
from metald.drivers.board import unsupported
from metald.errors import Invalid

JsonList = Sequence[Mapping[str, Any]]
V = TypeVar("V", bound=Callable[..., Awaitable[Any]])


class Bios(Interface):
    """Changes and reads the settings of a machine's firmware set-up. Its methods are steps."""

    kind = "bios"

    @abstractmethod
    async def apply_configuration(self, ctx: StepContext, settings: JsonList) -> Outcome:
        """Set settings, each a `name` and a `value`.

        Raises:
            Invalid: the settings are none.
        """

    @abstractmethod
    async def factory_reset(self, ctx: StepContext) -> Outcome:
        """Set everything back to what the vendor delivered."""

    @abstractmethod
    async def cache_bios_settings(self, ctx: StepContext) -> Outcome:
        """Read the settings into the node's internals."""


class Firmware(Interface):
    """Updates a machine's firmware. Its methods are steps."""

    kind = "firmware"

    @abstractmethod
    async def update(self, ctx: StepContext, settings: JsonList) -> Outcome:
        """Flash components, each a `component` and a `url`."""


class Raid(Interface):
    """Makes logical disks of physical ones."""

    kind = "raid"

    @abstractmethod
    async def create_configuration(
        self, ctx: StepContext, *, create_root_volume: bool = True, create_nonroot_volumes: bool = True
    ) -> Outcome:
        """Make the node's `target_raid_config` true, wholly or only the root volume or only the others."""

    @abstractmethod
    async def delete_configuration(self, ctx: StepContext) -> Outcome:
        """Remove every logical disk."""


class Console(Interface):
    """Gives people the machine's console."""

    kind = "console"

    @abstractmethod
    async def start(self, ctx: NodeContext) -> None:
        """Make the console reachable; one that is already stays as it is. Called again when the daemon has started.

        Only within a step can `ctx` change the node.
        """

    @abstractmethod
    async def stop(self, ctx: NodeContext) -> None:
        """Close the console."""

    @abstractmethod
    async def info(self, ctx: NodeContext) -> Mapping[str, Any]:
        """Where the console is: `type` and `url`.

        A `url` that is a path is on the API's address: a page for the type `vnc`, else a WebSocket.
        """


@dataclass(frozen=True, slots=True)
class VendorMethod:
    """A method of a vendor's own that clients may call by name."""

    name: str
    verbs: tuple[str, ...]
    """HTTP methods that it answers to."""
    asynchronous: bool = True
    """Whether the caller is answered before it is done."""
    description: str = ""
    exclusive: bool = True
    """Whether it must not run beside anything else that drives the node."""
    required: tuple[str, ...] = ()
    """Arguments that must be given and not be empty."""
    optional: tuple[str, ...] | None = ()
    """Further arguments that it knows; None when it takes any."""


def passthru(
    *verbs: str,
    asynchronous: bool = True,
    description: str = "",
    exclusive: bool = True,
    required: Sequence[str] = (),
    optional: Sequence[str] | None = (),
    driver: bool = False,
) -> Callable[[V], V]:
    """Mark `async def name(self, ctx: StepContext, **args) -> JSON value` as a vendor method of nodes.

    With `driver` it belongs to the hardware type as a whole instead, and is called without `ctx`.
    """

    def mark(method: V) -> V:
        name = getattr(method, "__name__", "")
        further = None if optional is None else tuple(optional)
        spec = VendorMethod(name, verbs, asynchronous, description, exclusive, tuple(required), further)
        setattr(method, "_metald_driver_passthru" if driver else "_metald_passthru", spec)
        return method

    return mark


class Vendor(Interface):
    """What only this vendor's machines can do."""

    kind = "vendor"

    def methods(self) -> Mapping[str, VendorMethod]:
        """The methods that concern a node, by name."""
        return _marked(cast(Any, type(self)), "_metald_passthru")

    def driver_methods(self) -> Mapping[str, VendorMethod]:
        """The methods that concern no node, by name."""
        return _marked(cast(Any, type(self)), "_metald_driver_passthru")


def handler(methods: Mapping[str, VendorMethod], name: str, verb: str, args: Mapping[str, Any]) -> VendorMethod:
    """The method that a call is for, with its arguments checked.

    Raises:
        Invalid: there is none of that name, or it does not take the HTTP method or the arguments.
    """
    found = methods.get(name)
    if found is None:
        raise Invalid(f"No handler for method {name}", remedy=f"There are: {', '.join(methods) or 'none'}.", field="method")
    if verb not in found.verbs:
        raise Invalid(f"The method {name} does not support HTTP {verb}", remedy=f"Use {', '.join(found.verbs)}.", field="method")
    for wanted in found.required:
        if args.get(wanted) in (None, "", [], {}):
            raise Invalid(f"Parameter '{wanted}' not passed to method '{name}'.", field=wanted)
    known = None if found.optional is None else {*found.required, *found.optional}
    unknown = [arg for arg in args if known is not None and arg not in known]
    if unknown:
        raise Invalid(
            f"Method '{name}' does not know the parameter '{unknown[0][:80]}'.",
            remedy=f"It takes: {', '.join(sorted(known or ())) or 'none'}.",
            field=unknown[0][:80],
        )
    return found


@cache
def _marked(implementation: type[Any], attribute: str) -> Mapping[str, VendorMethod]:
    specs = (getattr(getattr(implementation, name), attribute, None) for name in dir(implementation))
    return {spec.name: spec for spec in specs if spec is not None}


__all__ = ["Bios", "Console", "Firmware", "Raid", "Vendor", "VendorMethod", "handler", "passthru", "unsupported"]
