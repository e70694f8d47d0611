"""The firmware's mode and secure boot, as an instance's capabilities ask for them: set where the BMC can, told where it cannot.

Rules: the mode is set before a ramdisk boots, secure boot just before the instance does, for ramdisks and boot loaders from the
network are rarely signed; it is turned off again before the machine boots anything else. A BMC that cannot is no error: then
the firmware's own setting counts, which somebody may have seen to.
"""

from __future__ import annotations

from metald.drivers.boot_mode import asked_boot_mode, wants_secure_boot
from metald.errors import Unsupported
from metald.statemachine.context import Context


async def match_boot_mode(context: Context) -> str:
    """Have the firmware boot in the mode that capabilities name. Returns what to tell of it; empty when none is named."""
    mode = asked_boot_mode(context.node)
    if mode is None:
        return ""
    try:
        await context.management.set_boot_mode(context, mode)
    except Unsupported:
        return f"The BMC cannot set the boot mode; {mode.value} is up to the firmware's own setting."
    context.set(boot_mode=mode.value)
    return f"Boots by {mode.value.upper()}."


async def match_secure_boot(context: Context, on: bool) -> str:
    """Turn secure boot on for an instance that asks for it, or off behind it. Returns what to tell of it."""
    if not wants_secure_boot(context.node):
        return ""
    word = "on" if on else "off"
    try:
        await context.management.set_secure_boot(context, on)
    except Unsupported:
        return f"The BMC cannot turn secure boot {word}; it is up to the firmware's own setting."
    context.set(secure_boot=on)
    return f"Secure boot is {word}."
