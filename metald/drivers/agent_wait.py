"""Deploy interface `direct`, and rescue interface `agent`: the machine boots a ramdisk, and its agent is waited for.

Rules:

- What Ironic does before its agent calls is done here: image settings are checked, the ramdisk is booted, and the node
  shows `wait call-back` or `rescue wait` until the deadline, an abort or an undeploy.
- No agent is driven. A heartbeat is taken note of and does not end the wait, so nothing is reported as deployed that was
  not written.
"""

from __future__ import annotations

from metald.drivers.base import Deploy, Done, NodeContext, Outcome, Rescue, StepContext, Wait
from metald.images.request import image_request
from metald.model import PowerTarget

_BOOTED = "rescue_ramdisk_booted"
_AGENT = "agent_waited_for"
"""A signal that nobody sends: the wait ends at its deadline."""


class DirectDeploy(Deploy):
    """Deployment by an agent in the ramdisk."""

    name = "direct"

    async def validate(self, ctx: NodeContext) -> None:
        """The image and its checksum are named.

        Raises:
            Invalid: names the field and the remedy.
        """
        image_request(ctx.node.instance_info, ctx.node.label)

    async def ramdisk_ready(self, ctx: StepContext) -> bool:  # noqa: ARG002
        """See the module."""
        return False


class AgentRescue(Rescue):
    """Rescue by an agent in the ramdisk.

    Args:
        timeout: seconds until the agent must have called.
    """

    name = "agent"

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def rescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        if not ctx.memo.get(_BOOTED):
            await ctx.power.set_power_state(ctx, PowerTarget.OFF)
            await ctx.boot.prepare_ramdisk(ctx, "rescue")
            await ctx.power.set_power_state(ctx, PowerTarget.ON)
            ctx.memo[_BOOTED] = True
        return Wait(_AGENT, self._timeout, "the ramdisk's agent to call", callback=True)

    async def unrescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        await ctx.power.set_power_state(ctx, PowerTarget.OFF)
        await ctx.boot.clean_up_ramdisk(ctx)
        await ctx.boot.prepare_instance(ctx)
        await ctx.power.set_power_state(ctx, PowerTarget.ON)
        return Done()
