"""What some management interfaces can do beyond boot device and NMI: indicators, boot mode, secure boot, virtual media.

Every method refuses until an implementation brings it, in the words that Ironic's clients know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metald.errors import Unsupported
from metald.model import BootMode

if TYPE_CHECKING:
    from metald.drivers.base import NodeContext, StepContext


def unsupported(ctx: NodeContext, what: str) -> Unsupported:
    """The error that says that the node's driver cannot do `what`."""
    return Unsupported(f"Driver {ctx.node.driver} does not support {what} (disabled or not implemented).")


@dataclass(frozen=True, slots=True)
class Indicator:
    """A light of a machine."""

    component: str
    """`chassis`, `system`, `disk`, `power` or `nic`."""
    name: str
    readonly: bool = True
    states: tuple[str, ...] = ("off", "on")
    """Of `off`, `on`, `blinking` and `unknown`."""

    @property
    def label(self) -> str:
        """Its name within the machine."""
        return f"{self.name}@{self.component}"


class Board:
    """The methods that a management interface may bring. Each may raise DriverError when the BMC says no."""

    async def indicators(self, ctx: NodeContext) -> Sequence[Indicator]:
        """The machine's lights.

        Raises:
            Unsupported: this implementation cannot tell.
        """
        raise unsupported(ctx, "get_supported_indicators")

    async def get_indicator_state(self, ctx: NodeContext, component: str, name: str) -> str:  # noqa: ARG002
        """The state of a light.

        Raises:
            Invalid: there is no such light.
            Unsupported: this implementation cannot tell.
        """
        raise unsupported(ctx, "get_indicator_state")

    async def set_indicator_state(self, ctx: NodeContext, component: str, name: str, state: str) -> None:  # noqa: ARG002
        """Change a light.

        Raises:
            Invalid: there is no such light or state, or it cannot be changed.
            Unsupported: this implementation cannot.
        """
        raise unsupported(ctx, "set_indicator_state")

    async def set_boot_mode(self, ctx: StepContext, mode: BootMode) -> None:  # noqa: ARG002
        """Change the firmware mode; what is set already is no error.

        Raises:
            Unsupported: this implementation cannot.
        """
        raise unsupported(ctx, "set_boot_mode")

    async def set_secure_boot(self, ctx: StepContext, on: bool) -> None:  # noqa: ARG002
        """Turn secure boot on or off; what is set already is no error.

        Raises:
            Unsupported: this implementation cannot.
        """
        raise unsupported(ctx, "set_secure_boot_state")

    async def get_virtual_media(self, ctx: NodeContext) -> Any:
        """What the BMC says of its virtual drives, as a JSON value.

        Raises:
            Unsupported: this implementation cannot tell.
        """
        raise unsupported(ctx, "get_virtual_media")

    async def attach_virtual_media(self, ctx: StepContext, device: str, url: str, source: str) -> None:  # noqa: ARG002
        """Put an image into a virtual drive.

        Args:
            ctx: the node.
            device: `cdrom`, `disk` or `floppy`.
            url: of the image.
            source: `http` when the BMC loads it itself, `local` when metald serves it, `swift`.

        Raises:
            Unsupported: this implementation cannot.
        """
        raise unsupported(ctx, "attach_virtual_media")

    async def detach_virtual_media(self, ctx: StepContext, devices: Sequence[str]) -> None:  # noqa: ARG002
        """Empty virtual drives, all of them when `devices` is empty.

        Raises:
            Unsupported: this implementation cannot.
        """
        raise unsupported(ctx, "detach_virtual_media")
