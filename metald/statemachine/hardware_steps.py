"""The steps of what clients ask of hardware beyond power and boot device. Each is the whole of a workflow of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from metald.drivers.base import Done, Outcome
from metald.drivers.board import unsupported
from metald.drivers.optional import Console, Vendor
from metald.model import BootMode
from metald.statemachine.context import Context


async def call_vendor(context: Context, method: str, args: dict[str, Any]) -> Outcome:
    """Call a vendor method whose caller does not wait for what it returns."""
    vendor = context.registry.for_node(context.node, "vendor")
    if not isinstance(vendor, Vendor) or method not in vendor.methods():
        raise unsupported(context, f"the vendor method {method}")
    await getattr(vendor, method)(context, **args)
    return Done(method)


async def switch_console(context: Context, enabled: bool) -> Outcome:
    """Open or close the machine's console."""
    console = context.registry.for_node(context.node, "console")
    await console.validate(context)
    if not isinstance(console, Console):
        raise unsupported(context, "console")
    await (console.start(context) if enabled else console.stop(context))
    context.set(console_enabled=enabled)
    return Done("enabled" if enabled else "disabled")


async def set_boot_mode(context: Context, mode: str) -> Outcome:
    """Change the firmware mode."""
    await context.management.set_boot_mode(context, BootMode(mode))
    context.set(boot_mode=mode)
    return Done(mode)


async def set_secure_boot(context: Context, on: bool) -> Outcome:
    """Turn secure boot on or off."""
    await context.management.set_secure_boot(context, on)
    context.set(secure_boot=on)
    return Done("on" if on else "off")


async def attach_virtual_media(context: Context, device: str, url: str, source: str) -> Outcome:
    """Put an image into a virtual drive."""
    await context.management.attach_virtual_media(context, device, url, source)
    return Done(device)


async def detach_virtual_media(context: Context, devices: list[str]) -> Outcome:
    """Empty virtual drives."""
    await context.management.detach_virtual_media(context, devices)
    return Done(", ".join(devices))


HARDWARE_STEPS: Mapping[tuple[str, str], Callable[..., Awaitable[Outcome]]] = MappingProxyType(
    {
        ("vendor", "call_vendor"): call_vendor,
        ("console", "switch_console"): switch_console,
        ("management", "set_boot_mode"): set_boot_mode,
        ("management", "set_secure_boot"): set_secure_boot,
        ("management", "attach_virtual_media"): attach_virtual_media,
        ("management", "detach_virtual_media"): detach_virtual_media,
    }
)
"""These steps by (interface, step)."""
