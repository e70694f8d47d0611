"""The rescue interface `agent`: the agent of the rescue ramdisk sets the operator's password and leaves the machine to them.

Rules:

- The agent is given the password's hash only, and metald keeps nothing else either.
- Once it has it, the agent ends its API. Whether an agent that answers no more set the password cannot be known; its machine
  is then booted anew, up to `BOOTS` times, so that nothing is reported as rescued that was not.
"""

from __future__ import annotations

from metald.drivers.agent.base import BOOTS, AgentBased
from metald.drivers.agent.commands import AgentLost
from metald.drivers.base import Done, Outcome, Rescue, StepContext, ramdisk_again
from metald.errors import DeployError
from metald.model import BootDevice

_LOSSES = "rescue_losses"


class AgentRescue(Rescue):
    """See the module.

    Args:
        agents: speaks to agents.
        timeout: seconds until a ramdisk that is booted again must have called.
    """

    name = "agent"
    in_ramdisk = True
    agent = True

    def __init__(self, agents: AgentBased, timeout: float) -> None:
        self._agents = agents
        self._timeout = timeout

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """See Rescue."""
        return await self._agents.ramdisk_ready(ctx)

    async def rescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        password = ctx.node.instance_info.get("hashed_rescue_password")
        if not password:
            raise DeployError(
                f"Node {ctx.node.label}: there is no rescue password.", remedy="Ask for the rescue again, with rescue_password."
            )
        try:
            await self._agents.ask(ctx, "rescue.finalize_rescue", {"rescue_password": password, "hashed": True})
        except AgentLost as error:
            losses = ctx.memo[_LOSSES] = int(ctx.memo.get(_LOSSES, 0)) + 1
            if losses > BOOTS:
                raise
            ctx.note("agent_lost", reason=str(error))
            again = ramdisk_again(self._timeout, 1, "rescue")
            return Done(f"{error} The ramdisk is booted again.", following=[*again, ctx.step, *ctx.following])
        return Done("The agent has set the password.")

    async def unrescue(self, ctx: StepContext) -> Outcome:
        """See Rescue."""
        if BootDevice.DISK in ctx.management.supported_boot_devices(ctx):
            await ctx.management.set_boot_device(ctx, BootDevice.DISK, persistent=True)
        return Done()
