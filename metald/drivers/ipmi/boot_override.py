"""For BMCs that forget a persistent boot device (`ipmi_force_boot_device`): choose it anew before each boot.

Rule: what is remembered is in the node (`driver_internal_info`), under Ironic's names, written through the step's
context. A context that cannot write (a plain power request) only applies.
"""

from __future__ import annotations

from typing import Final

from metald.drivers.base import NodeContext
from metald.drivers.boot_mode import requested_boot_mode
from metald.drivers.ipmi.client import SELECTORS, Bmc
from metald.model import BootDevice

_DEVICE: Final = "persistent_boot_device"
_NEXT_ONLY: Final = "is_next_boot_persistent"


def remember(ctx: NodeContext, device: BootDevice, *, persistent: bool) -> None:
    """Keep a persistent choice, or that the next boot has a choice of its own."""
    internal = dict(ctx.node.driver_internal_info)
    internal.pop(_NEXT_ONLY, None)
    if persistent:
        internal[_DEVICE] = str(device)
    else:
        internal[_NEXT_ONLY] = False
    _write(ctx, internal)


async def apply(ctx: NodeContext, bmc: Bmc) -> None:
    """Before the power goes on: set the remembered device again, unless the next boot has a choice of its own."""
    if not bmc.info.force_boot_device:
        return
    internal = dict(ctx.node.driver_internal_info)
    if internal.get(_NEXT_ONLY) is False:
        del internal[_NEXT_ONLY]
        _write(ctx, internal)
        return
    device = internal.get(_DEVICE)
    if device in SELECTORS:
        vendor = str(ctx.node.properties.get("vendor") or "")
        await bmc.set_boot_device(BootDevice(device), requested_boot_mode(ctx.node), persistent=False, vendor=vendor)


def _write(ctx: NodeContext, internal: dict[str, object]) -> None:
    change = getattr(ctx, "set", None)
    if change is not None and internal != ctx.node.driver_internal_info:
        change(driver_internal_info=internal)
