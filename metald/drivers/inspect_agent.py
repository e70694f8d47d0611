"""Inspect interface `agent`: a ramdisk on the machine sends what it finds to `POST /v1/continue_inspection`.

Rules:

- The workflow boots the ramdisk with the agent where the node's boot interface can, and starts the machine from the network
  where somebody else offers one. While it is waited for the node shows `inspect wait`, and the client may abort.
- What is made of the inventory is the engine's business (`statemachine/inspection`), and the same for every such interface.
"""

from __future__ import annotations

from metald.drivers.base import Done, Inspect, Outcome, StepContext, Wait

FOUND = "found"
"""In a workflow's memo: `inventory` and `plugin_data` that an interface found out by itself, before they are kept."""
INVENTORY = "inventory"
"""The signal that an inventory has come, and its place in the workflow's memo."""


class AgentInspect(Inspect):
    """Inspection by a ramdisk.

    Args:
        timeout: seconds until the inventory must have come.
    """

    name = "agent"
    in_ramdisk = True
    agent = True

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def inspect_hardware(self, ctx: StepContext) -> Outcome:
        """See Inspect."""
        if INVENTORY in ctx.memo:
            return Done()
        return Wait(INVENTORY, self._timeout, "the ramdisk to send its inventory", callback=True)
