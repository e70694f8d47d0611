"""The RAID interface `agent`: software RAID, or whatever RAID the agent's hardware managers know.

The agent makes and removes the logical disks by its own steps `raid.create_configuration`, `delete_configuration` and
`apply_configuration`; here they get what the node wants, and the node gets what was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metald.drivers.agent.base import AgentBased
from metald.drivers.base import Outcome, Phase, StepContext, step
from metald.drivers.boot_mode import capabilities
from metald.drivers.optional import Raid
from metald.errors import DeployError, Invalid
from metald.model import PlannedStep, now

_WANTED = {
    "create_root_volume": {"description": "Make the root volume. True by default.", "required": False},
    "create_nonroot_volumes": {"description": "Make the other volumes. True by default.", "required": False},
}
_APPLIED = {
    "raid_config": {"description": "The logical disks to make, as for target_raid_config.", "required": True},
    "delete_existing": {"description": "Remove what is there before. True by default.", "required": False},
}


class AgentRaid(Raid):
    """See the module.

    Args:
        agents: speaks to agents.
    """

    name = "agent"

    def __init__(self, agents: AgentBased) -> None:
        self._agents = agents

    @step(Phase.CLEAN, 0, requires_ramdisk=True, argsinfo=_WANTED)
    async def create_configuration(
        self, ctx: StepContext, *, create_root_volume: bool = True, create_nonroot_volumes: bool = True
    ) -> Outcome:
        """Have the agent make the logical disks of the node's target_raid_config."""
        disks = ctx.node.target_raid_config.get("logical_disks") or []
        chosen = [disk for disk in disks if (create_root_volume if disk.get("is_root_volume") else create_nonroot_volumes)]
        if not chosen:
            raise Invalid(
                f"Node {ctx.node.label}: there is no logical disk to make.",
                remedy="Set its target RAID configuration: baremetal node set NAME --target-raid-config FILE.",
                field="target_raid_config",
            )
        wanted = {**ctx.node.target_raid_config, "logical_disks": chosen}
        return await self._run(ctx, "create_configuration", {}, lambda made: _keep(ctx, made), {"target_raid_config": wanted})

    @step(Phase.CLEAN, 0, requires_ramdisk=True)
    async def delete_configuration(self, ctx: StepContext) -> Outcome:
        """Have the agent remove every logical disk."""
        return await self._run(ctx, "delete_configuration", {}, lambda _: _forget(ctx), {})

    @step(Phase.DEPLOY, 0, requires_ramdisk=True, argsinfo=_APPLIED)
    @step(Phase.SERVICE, 0, requires_ramdisk=True, argsinfo=_APPLIED)
    async def apply_configuration(self, ctx: StepContext, raid_config: dict[str, Any], delete_existing: bool = True) -> Outcome:
        """Have the agent make the logical disks that a deployment asks for."""
        args = {"raid_config": raid_config, "delete_existing": delete_existing}
        return await self._run(ctx, "apply_configuration", args, lambda made: _keep(ctx, made), {})

    async def _run(self, ctx: StepContext, name: str, args: dict[str, Any], use: Any, more: Mapping[str, Any]) -> Outcome:
        wanted = PlannedStep(interface="raid", step=name, args=args, priority=ctx.step.priority)
        return await self._agents.in_band_step(ctx, wanted, phase_of(ctx), use, more)


def phase_of(ctx: StepContext) -> str:
    """Which steps of the agent's a workflow deals in, by the state of its node."""
    state = ctx.node.provision_state.value
    return Phase.CLEAN.value if "clean" in state else Phase.SERVICE.value if "servic" in state else Phase.DEPLOY.value


def _keep(ctx: StepContext, made: Any) -> None:
    """The node's RAID configuration is what was made; its root volume is the root device.

    Raises:
        DeployError: the agent does not say what it made, or made several root volumes.
    """
    disks = made.get("logical_disks") if isinstance(made, Mapping) else None
    if not isinstance(disks, list) or not all(isinstance(disk, Mapping) for disk in disks):
        raise DeployError(f"Node {ctx.node.label}: the agent does not tell which logical disks it made.")
    roots = [disk for disk in disks if disk.get("is_root_volume")]
    if len(roots) > 1:
        raise DeployError(f"Node {ctx.node.label}: the agent made {len(roots)} root volumes.")
    properties = dict(ctx.node.properties)
    for root in roots:
        if root.get("size_gb") not in (None, "MAX"):
            properties["local_gb"] = int(root["size_gb"])
        if root.get("root_device_hint"):
            properties["root_device"] = dict(root["root_device_hint"])
        words = {**capabilities(properties.get("capabilities")), "raid_level": str(root.get("raid_level"))}
        properties["capabilities"] = ",".join(f"{key}:{word}" for key, word in words.items())
    ctx.set(raid_config={**made, "last_updated": now().isoformat()}, properties=properties)


def _forget(ctx: StepContext) -> None:
    ctx.set(raid_config={}, properties={key: value for key, value in ctx.node.properties.items() if key != "root_device"})
