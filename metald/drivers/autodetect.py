"""The deploy interface `autodetect`: the node's image says which interface deploys it.

It does nothing itself: the registry puts the chosen interface in its place wherever the node's deploy interface is asked for
(`Interface.stands_in`). The node keeps the name `autodetect`, so that its next instance is looked at anew.
"""

from __future__ import annotations

from metald.drivers.base import Deploy, StepContext
from metald.errors import Unsupported
from metald.model import Node


class AutodetectDeploy(Deploy):
    """See the module."""

    name = "autodetect"

    def stands_in(self, node: Node) -> str:
        """The interface for what `instance_info` holds.

        A network-booted instance only where `ironic_ramdisk_deploy` asks for it, for a kernel and a ramdisk come with
        partition images too; containers by `bootc`; an installer's second stage or kickstart, or a tree of packages, by
        `anaconda`; everything else by `direct`.
        """
        info = node.instance_info
        source = info.get("image_source")
        source = source if isinstance(source, str) else ""
        if info.get("ironic_ramdisk_deploy") and (info.get("boot_iso") or (info.get("kernel") and info.get("ramdisk"))):
            return "ramdisk"
        if source.startswith("oci://"):
            return "bootc"
        if info.get("stage2") or info.get("ks_template") or (source.startswith("http") and source.endswith("/")):
            return "anaconda"
        return "direct"

    async def ramdisk_ready(self, ctx: StepContext) -> bool:
        """Never asked: another interface stands in.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"Node {ctx.node.label}: autodetect deploys nothing itself.")
