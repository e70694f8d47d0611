"""Implementations that do nothing (`noop`) or say that they cannot (`no-...`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metald.drivers.base import Interface, Management, NodeContext
from metald.errors import Unsupported
from metald.model import BootDevice


class Absent(Interface):
    """Stands where the hardware has no such interface: `no-bios`, `no-raid` and so on.

    Args:
        kind: the interface type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind  # type: ignore[misc]
        self.name = f"no-{kind}"  # type: ignore[misc]

    async def validate(self, ctx: NodeContext) -> None:
        """Always refuses.

        Raises:
            Unsupported: the node has no such interface.
        """
        raise Unsupported(f"Driver {ctx.node.driver} does not support {self.kind} (disabled or not implemented).")


class Noop(Interface):
    """An interface type that needs nothing done, such as storage on local disks.

    Args:
        kind: the interface type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind  # type: ignore[misc]
        self.name = "noop"  # type: ignore[misc]


class NoopManagement(Management):
    """Management of machines whose boot order somebody else sees to."""

    name = "noop"

    def supported_boot_devices(self, ctx: NodeContext) -> Sequence[BootDevice]:  # noqa: ARG002
        """What workflows need set, which is taken and does nothing."""
        return (BootDevice.PXE, BootDevice.DISK)

    async def get_boot_device(self, ctx: NodeContext) -> tuple[BootDevice | None, bool | None]:  # noqa: ARG002
        """The order that such machines must have: network first, always."""
        return BootDevice.PXE, True

    async def set_boot_device(self, ctx: NodeContext, device: BootDevice, *, persistent: bool = False) -> None:
        """Does nothing."""


def absents() -> list[Any]:
    """One `no-...` object of each interface type that has one."""
    return [Absent(kind) for kind in ("bios", "console", "firmware", "inspect", "raid", "rescue", "vendor")]
