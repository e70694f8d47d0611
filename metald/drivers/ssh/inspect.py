"""The inspect interface `ssh`: metald asks its own ramdisk over SSH what the machine is made of.

What it finds has the form of an agent's inventory, so that hooks and rules work on both alike. Switches (LLDP) and PCI devices
are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from metald.drivers.base import Done, Inspect, Outcome, StepContext
from metald.drivers.inspect_agent import FOUND, INVENTORY
from metald.drivers.root_device import Disk
from metald.drivers.ssh.deploy import SshDeploy
from metald.errors import DeployError

_TEXTS = {"sys_vendor": "manufacturer", "product_name": "product_name", "product_serial": "serial_number"}


class SshInspect(Inspect):
    """See the module.

    Args:
        ssh: has the connections to ramdisks.
    """

    name = "ssh"
    in_ramdisk = True
    calls_by = "ramdisk"

    def __init__(self, ssh: SshDeploy) -> None:
        self._ssh = ssh

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """See Inspect."""
        return await self._ssh.ramdisk_ready(ctx)

    async def inspect_hardware(self, ctx: StepContext) -> Outcome:
        """See Inspect."""
        if INVENTORY in ctx.memo:
            return Done()
        ramdisk = await self._ssh.ramdisk(ctx.node)
        facts = await ramdisk.facts()
        if not facts:
            raise DeployError(f"Node {ctx.node.label}: the ramdisk tells nothing of its machine.")
        called = ctx.node.driver_internal_info.get("ramdisk") or {}
        ctx.memo[FOUND] = {"inventory": inventory(facts, await ramdisk.disks(), called), "plugin_data": {}}
        return Done()


def inventory(facts: Sequence[Mapping[str, Any]], disks: Sequence[Disk], called: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent would hand in.

    Args:
        facts: the machine's, then each card's.
        disks: every disk.
        called: what the ramdisk told when it called: `address`, `boot_mode`, `macs`.
    """
    machine, *cards = facts
    known = {str(card.get("mac_address")).lower() for card in cards}
    listed = [
        *({"name": card.get("name"), "mac_address": card.get("mac_address"), "has_carrier": card.get("has_carrier")} for card in cards),
        *({"name": f"card{at}", "mac_address": mac} for at, mac in enumerate(called.get("macs") or ()) if mac not in known),
    ]
    return {
        "interfaces": listed,
        "disks": [asdict(disk) for disk in disks],
        "cpu": {"architecture": machine.get("architecture"), "count": machine.get("cpus"), "model_name": machine.get("model")},
        "memory": {"physical_mb": int(machine.get("memory_kb") or 0) >> 10},
        "boot": {"current_boot_mode": called.get("boot_mode")},
        "system_vendor": {name: machine[key] for key, name in _TEXTS.items() if machine.get(key)},
    }
