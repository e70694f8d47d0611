"""The deploy interface `ramdisk`: the instance is an ISO image or a ramdisk that the machine boots from the network.

Nothing is written to a disk. Cleaning, rescue and service go by the Ironic Python Agent, as with the other interfaces of its.
"""

from __future__ import annotations

from metald.drivers.agent.base import AgentBased
from metald.drivers.base import NodeContext, StepContext
from metald.errors import Invalid, Unsupported
from metald.model import Node


class RamdiskDeploy(AgentBased):
    """See the module."""

    name = "ramdisk"
    netboots = True

    async def validate(self, ctx: NodeContext) -> None:
        """The boot interface boots such instances.

        Raises:
            Unsupported: it does not.
        """
        check_boot(ctx)

    def instance_boot(self, node: Node, ctx: StepContext | None = None) -> dict[str, str]:  # noqa: ARG002
        """See Deploy. A boot ISO wins over a kernel.

        Raises:
            Invalid: `instance_info` has neither.
        """
        info = node.instance_info
        if info.get("boot_iso"):
            return {"kind": "iso", "iso": str(info["boot_iso"])}
        return {"kind": "ramdisk", **needed(node, "kernel", "ramdisk")}


def check_boot(ctx: NodeContext) -> None:
    """Whether the node's boot interface can boot instances.

    Raises:
        Unsupported: it cannot.
    """
    if not ctx.boot.boots_instances:
        raise Unsupported(
            f"Node {ctx.node.label}: boot interface {ctx.boot.name} cannot boot an instance from the network.",
            remedy="Set boot_interface to ipxe, or deploy_interface to another.",
            field="deploy_interface",
        )
    ctx.boot.check_instance(ctx)


def needed(node: Node, *names: str) -> dict[str, str]:
    """Texts of `instance_info` that must be there.

    Raises:
        Invalid: names the one that is not.
    """
    for name in names:
        if not isinstance(node.instance_info.get(name), str) or not node.instance_info[name]:
            raise Invalid(
                f"Node {node.label}: instance_info lacks {name}, which its deploy interface boots.",
                remedy=f"Set instance_info/{name} to an http, https or file URL.",
                field=f"instance_info/{name}",
            )
    return {name: str(node.instance_info[name]) for name in names}
