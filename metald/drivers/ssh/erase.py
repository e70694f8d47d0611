"""Erases whole disks by metald's own ramdisk: the disk erases itself where it offers to, else it is overwritten with zeros.

Rules:

- A worker in the ramdisk does it and outlives the connection; meanwhile the node waits and its client may abort.
- What a disk says of itself is tested: it holds marks before, and must not hold them behind the erasure.
- Overwriting goes on where it was when the machine was booted anew. A disk that erases itself begins anew.
- Who is asked and what a failure means stands in the node's driver_info, under the names that Ironic's agent reads.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from metald.drivers.base import StepContext, Wait
from metald.drivers.root_device import Disk
from metald.drivers.ssh.ramdisk import Ramdisk
from metald.drivers.truth import is_true
from metald.errors import DeployError, MetaldError, WorldError
from metald.model import Node

MEMO = "erased"
ZERO = "zero"
MARK = 4096
"""Bytes of a mark."""
_MARKED_FROM = 16 << 20
"""Bytes of a disk that is large enough for marks."""
_EDGE = 4 << 20
_KEPT_EVERY = 60.0
"""Seconds of overwriting after which it is written down how far it is."""
_DAY = 86400.0

Reach = Callable[[Node], Awaitable[Ramdisk]]
"""The ramdisk of a node's present boot."""


class Eraser:
    """See the module.

    Args:
        reach: finds the ramdisk.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def erase(self, ctx: StepContext, ramdisk: Ramdisk, disk: Disk) -> Wait | None:
        """Erase a disk, or see how far it is.

        Returns:
            None when it is erased; else what the step waits for.

        Raises:
            DeployError: it cannot be erased.
        """
        known: dict[str, dict[str, Any]] = ctx.memo.setdefault(MEMO, {})
        entry = known.get(identity(disk)) or await self._chosen(ctx, ramdisk, disk)
        if entry["done"]:
            return None
        try:
            state = await self._state(ramdisk, disk, entry)
            if state.get("state") == "done":
                await self._proved(ctx, ramdisk, disk, entry)
                entry["done"] = True
                return None
        except WorldError as error:
            if error.transient or entry["method"] == ZERO or not _says(ctx.node, "agent_continue_if_secure_erase_failed", default=False):
                raise
            ctx.note("erasure", disk=disk.name, method=entry["method"], error=str(error))
            known[identity(disk)] = _entry(ZERO)
            await ctx.checkpoint()
            return await self.erase(ctx, ramdisk, disk)
        if entry["method"] == ZERO and isinstance(state.get("bytes"), int):
            entry["offset"] = state["bytes"]
        look = partial(self._look, ctx, disk, dict(entry))
        return Wait("ramdisk", _DAY, f"{disk.name} to be erased", callback=True, renew=True, look=look)

    async def _chosen(self, ctx: StepContext, ramdisk: Ramdisk, disk: Disk) -> dict[str, Any]:
        """How the disk is erased. Durable, with the marks on the disk, when it returns."""
        entry = _entry(method_of(await ramdisk.erasures(disk), ctx.node) or ZERO)
        if entry["method"] != ZERO and disk.size >= _MARKED_FROM:
            entry["marks"] = _places(disk)
            await ramdisk.patch(disk, [(place, mark(entry["job"], place)) for place in entry["marks"]])
        ctx.memo[MEMO][identity(disk)] = entry
        await ctx.checkpoint()
        return entry

    async def _state(self, ramdisk: Ramdisk, disk: Disk, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Start the worker unless it runs or is done, and tell what it says."""
        states = [one async for one in ramdisk.erasing(disk, entry["job"], entry["method"], entry["offset"], 0)]
        state = states[-1] if states else {"error": "the ramdisk says nothing of it", "state": "failed"}
        if state.get("state") == "failed":
            raise _failed(ramdisk.label, disk, state)
        return state

    async def _proved(self, ctx: StepContext, ramdisk: Ramdisk, disk: Disk, entry: Mapping[str, Any]) -> None:
        places = entry["marks"]
        data = await ramdisk.read(disk, [(place, MARK) for place in places]) if places else b""
        left = [place for at, place in enumerate(places) if data[at * MARK : (at + 1) * MARK] == mark(entry["job"], place)]
        if left:
            raise DeployError(
                f"Node {ctx.node.label}: {disk} says that it has erased itself, and holds at byte {left[0]} what was there before.",
                remedy="Replace it, or set driver_info/agent_continue_if_secure_erase_failed to have it overwritten.",
            )
        ctx.note("erasure", disk=disk.name, method=entry["method"])

    async def _look(self, ctx: StepContext, disk: Disk, entry: Mapping[str, Any]) -> None:
        """Show how far the worker is, until there is something to write down."""
        try:
            ramdisk = await self._reach(ctx.node)
            seconds = _KEPT_EVERY if entry["method"] == ZERO else _DAY
            async for state in ramdisk.erasing(disk, entry["job"], entry["method"], entry["offset"], seconds):
                ctx.progress(message=f"Erasing {disk.name}", bytes=state.get("bytes"), total=state.get("total"))
        except MetaldError:
            return  # the step meets it too, and knows what to do


def identity(disk: Disk) -> str:
    """What a disk is known by from one boot to the next: its serial number and WWN, else its name and size."""
    return f"{disk.serial} {disk.wwn}" if disk.serial or disk.wwn else f"{disk.name} {disk.size}"


def mark(job: str, place: int) -> bytes:
    """The bytes that a disk holds at a place before it erases itself."""
    return hashlib.sha512(f"{job}:{place}".encode()).digest() * (MARK // 64)


def method_of(offers: Mapping[str, Any], node: Node) -> str:
    """How the disk shall erase itself; empty when it offers nothing that the node's driver_info admits."""
    if offers.get("kind") == "nvme" and offers.get("format") and _says(node, "agent_enable_nvme_secure_erase", default=True):
        return "nvme-crypto" if offers.get("crypto") else "nvme"
    if offers.get("kind") == "ata" and _says(node, "agent_enable_ata_secure_erase", default=True):
        return "ata-enhanced" if offers.get("enhanced") else "ata"
    return ""


def _says(node: Node, key: str, *, default: bool) -> bool:
    found = node.driver_info.get(key)
    return default if found is None else is_true(found)


def _entry(method: str) -> dict[str, Any]:
    return {"method": method, "job": secrets.token_hex(16), "offset": 0, "marks": [], "done": False}


def _places(disk: Disk) -> list[int]:
    """Where marks stand: behind the first partition tables, in the middle, before the last."""
    return [_EDGE, disk.size // 2 // MARK * MARK, (disk.size - _EDGE) // MARK * MARK]


def _failed(label: str, disk: Disk, state: Mapping[str, Any]) -> DeployError:
    remedies = {
        "frozen": "Firmware freezes disks as it starts: turn that off in its setup. ",
        "locked": "Unlock it with its password. ",
    }
    overwriting = "" if state.get("kind") == "disk" else "Or set driver_info/agent_continue_if_secure_erase_failed to have it overwritten."
    why = state.get("error") or "the worker ended without a word"
    remedy = f"{remedies.get(str(state.get('kind')), 'Check the disk. ')}{overwriting}".strip()
    return DeployError(f"Node {label}: {disk} could not be erased: {why}.", remedy=remedy)
