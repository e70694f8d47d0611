"""Rescue interface `agent`: the machine boots a ramdisk, and its agent is waited for.

Rules:

- The ramdisk is booted, and the node shows `rescue wait` until the deadline or an abort.
- No agent is driven. A heartbeat is taken note of and does not end the wait, so nothing is reported as rescued that was not.
"""

from __future__ import annotations

from metald.drivers.base import Done, Outcome, Rescue, StepContext, Wait
from metald.model import PowerTarget

_BOOTED = "rescue_ramdisk_booted"
_AGENT = "agent_waited_for"
"""A signal that nobody sends: the wait ends at its deadline."""


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
